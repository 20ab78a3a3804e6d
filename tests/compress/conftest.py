"""Real images and small true networks for the compression steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prepared_images import elpv_split

from pqbench.core.split import PreparedSplit
from pqbench.nets.layers import torch_threads

SIDE = 64


@pytest.fixture(scope="session", autouse=True)
def _quiet_telemetry() -> Iterator[None]:
    """OpenVINO's and NNCF's telemetry stays off in continuous integration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")
        yield


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    """48 real photographs of solar cells at 64 pixels."""
    return elpv_split(tmp_path_factory.mktemp("elpv"), 48, SIDE)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and lose much on a busy machine."""
    with torch_threads(1):
        yield
