from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pqbench.backends.base import Backend
from pqbench.backends.support import library
from pqbench.errors import UnavailableError
from pqbench.schema import make

CONF = Path(__file__).parents[2] / "conf" / "backend"
NAMES = ("torch", "ort", "openvino")


def node(name: str, threads: int | None) -> dict[str, object]:
    config = OmegaConf.create({"backend": OmegaConf.load(CONF / f"{name}.yaml")})
    config.threads = threads
    resolved = OmegaConf.to_container(config.backend, resolve=True)
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_backend_yaml_makes_a_backend_that_is_available(name: str, threads: int | None) -> None:
    options = node(name, threads)
    assert options["name"] == name
    backend = make(options, name)
    assert isinstance(backend, Backend)
    assert backend.threads >= 1 if threads is None else backend.threads == 2
    found = backend.availability()
    assert found.available and found.device == "cpu" and found.versions
    assert found.reason == found.hint == ""


@pytest.mark.parametrize("name", NAMES)
def test_availability_says_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pqbench.backends import support

    def absent(module: str) -> object:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr(support, "import_module", absent)
    found = make(node(name, 1), name).availability()
    assert not found.available
    assert "is not installed" in found.reason
    assert "pip install" in found.hint


def test_library_tells_a_broken_installation_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_runtime.py").write_text("import no_such_thing_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableError, match=r"cannot be imported.*no_such_thing_at_all"):
        library("broken_runtime", "x")
    with pytest.raises(UnavailableError, match="is not installed"):
        library("no_such_thing_at_all", "x")


def test_backends_import_no_runtime_until_used() -> None:
    code = (
        "import sys; from pqbench.backends import ort, openvino, torch_backend; "
        "ort.OrtBackend(1); openvino.OpenvinoBackend(1); torch_backend.TorchBackend(1); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
