"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images and weights beside the checkout, or $PQBENCH_TEST_DATA."""
    given = os.environ.get("PQBENCH_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set PQBENCH_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Undo what a session that a test loaded in this process does to its floating-point unit.

    PyTorch's and ONNX Runtime's sessions flush denormals in the thread that loads them.
    """
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)
