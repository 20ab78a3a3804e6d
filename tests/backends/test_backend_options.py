from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pqbench.backends.support import library
from pqbench.core.backend import Backend
from pqbench.core.errors import ConfigError, UnavailableError
from pqbench.core.instantiate import make
from pqbench.experiment.config import register

CONF = Path(__file__).parents[2] / "conf"
NAMES = (
    "torch",
    "torchscript",
    "torch_compile",
    "ort",
    "openvino",
    "ncnn",
    "mnn",
    "executorch",
    "litert",
)
OPTIONAL = ("torch_compile", "ncnn", "mnn", "executorch", "litert")
GPU_NAMES = (
    "torch_cuda", "ort_cuda", "ort_tensorrt", "ort_tensorrt_rtx", "tensorrt", "tensorrt_rtx",
    "torch_tensorrt", "torch_tensorrt_fp16",
)  # fmt: skip


def node(name: str, threads: int | None) -> dict[str, object]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"backend={name}"])
    return {**OmegaConf.to_container(config.backend, resolve=True), "threads": threads}


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_backend_yaml_makes_a_backend_that_is_available(name: str, threads: int | None) -> None:
    options = node(name, threads)
    assert options["name"] == name
    backend = make(options, name, Backend)
    assert isinstance(backend, Backend)
    assert backend.threads >= 1 if threads is None else backend.threads == 2
    found = backend.availability()
    if name in OPTIONAL and not found.available:
        pytest.skip(found.reason)
    assert found.available and found.device == "cpu" and found.versions
    assert found.reason == found.hint == ""


@pytest.mark.parametrize("name", NAMES)
def test_availability_says_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pqbench.backends import support

    def absent(module: str) -> object:
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    backend = make(node(name, 1), name, Backend)
    monkeypatch.setattr(support, "import_module", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    found = backend.availability()
    assert not found.available
    assert "is not installed" in found.reason
    assert "pip install" in found.hint


@pytest.mark.parametrize("name", GPU_NAMES)
def test_gpu_backend_says_exactly_why_it_cannot_run_here(name: str) -> None:
    from pqbench.machine.cuda_driver import gpu

    backend = make(node(name, None), name, Backend)
    assert isinstance(backend, Backend)
    found = backend.availability()
    assert found.device == "cuda:0"
    try:
        gpu()
    except UnavailableError as error:
        assert not found.available
        missing_library = "is not installed" in found.reason or "was built without" in found.reason
        assert missing_library or error.message in found.reason
        assert found.hint
    else:
        pytest.skip("there is a GPU")


def test_gpu_check_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    from pqbench.machine.cuda_driver import gpu

    try:
        gpu()
    except UnavailableError as error:
        script = CONF.parent / "scripts" / "gpu_check.py"
        done = subprocess.run(
            [sys.executable, str(script), "--out", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert error.message in done.stderr
        assert not list(tmp_path.iterdir())
    else:
        pytest.skip("there is a GPU")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cpu:0"])
def test_a_device_that_cannot_be_meant_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        make({**node("torch", 1), "device": device}, "torch", Backend)


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
        "import sys; from pqbench.backends import openvino, ort, tensorrt, torch; "
        "import pqbench.backends.openvino.backend, pqbench.backends.ort.backend; "
        "import pqbench.backends.ort.gpu, pqbench.backends.tensorrt.backend; "
        "import pqbench.backends.torch.backend, pqbench.backends.torch_tensorrt.backend; "
        "tensorrt.backend.TensorrtBackend(1); ort.gpu.OrtCudaBackend(threads=1); "
        "ort.backend.OrtBackend(1); openvino.backend.OpenvinoBackend(1); "
        "torch.backend.TorchBackend(1); "
        "pqbench.backends.torch_tensorrt.backend.TorchTensorrtBackend(1); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino', "
        "'tensorrt', 'tensorrt_rtx_bindings') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
