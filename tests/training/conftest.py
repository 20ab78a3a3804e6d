"""Real images and small networks to train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prepared_images import elpv_split

from pqbench.core.artifact import Artifact
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import build_network, save_network
from pqbench.nets.layers import torch_threads

RESNET18 = {"_target_": "torchvision.models.resnet18", "num_classes": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and lose much on a busy machine."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    """120 real photographs of solar cells at 48 pixels."""
    return elpv_split(tmp_path_factory.mktemp("elpv"), 120, 48)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    """ResNet-18 with random weights."""
    import torch

    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("resnet18")
    network = build_network(RESNET18)
    return save_network(network, RESNET18, folder, split.specs(), ("logits",), ())
