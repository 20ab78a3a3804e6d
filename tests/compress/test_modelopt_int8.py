"""NVIDIA's Model Optimizer: Q/DQ files that runtimes take; FP8 only where it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from compress_models import int8_weights, make_onnx, make_tiny, run_openvino, run_ort, sqnr

from pqbench.assets.converters import MODELOPT
from pqbench.compress import modelopt_int8
from pqbench.compress.modelopt_int8 import ModeloptInt8
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.machine.cuda_driver import Gpu


@pytest.fixture(scope="module")
def exact(split: PreparedSplit, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("modelopt")
    return make_onnx(make_tiny(folder / "source", split), folder / "onnx")


@pytest.mark.skipif(not MODELOPT.ready(), reason=MODELOPT.command)
@pytest.mark.parametrize("method", ["entropy", "max"])
def test_modelopt_int8_writes_a_small_file_that_both_runtimes_take(
    method: str, exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1)
    result = ModeloptInt8(calibration_size=16, method=method).apply(exact, data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact.json", "model.onnx"]
    # Both convolutions; the tool leaves products of one row (batch 1) in float.
    assert len(int8_weights(result)) == 2
    assert result.path.stat().st_size < exact.path.stat().st_size
    details = result.lineage[-1].details
    assert details["calibration_size"] == 16 and details["quantize_nodes"] > 1
    assert details["tool_versions"]["nvidia-modelopt"]
    images = split.feed(slice(0, 8))["input"]
    floats = run_ort(exact, images)
    assert sqnr(floats, run_ort(result, images)) > 15
    assert sqnr(floats, run_openvino(result, images)) > 15


def test_modelopt_int8_that_is_missing_is_said_with_the_remedy(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="Model Optimizer, which has an env") as caught:
        ModeloptInt8().apply(exact, StepData(split, seed=0, threads=1), tmp_path)
    assert caught.value.hint == "python -m pqbench.runtimes install modelopt"


@pytest.mark.parametrize(("capability", "taken"), [("8.6", False), ("8.9", True), ("10.0", True)])
def test_modelopt_int8_takes_fp8_only_where_a_gpu_multiplies_it(
    capability: str,
    taken: bool,
    exact: Artifact,
    split: PreparedSplit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modelopt_int8, "gpu", lambda: Gpu(0, "a GPU", capability, "13.0"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # whose environment is missing
    expected = UnavailableError if taken else UnsupportedError
    message = "is not installed" if taken else f"a GPU has compute capability {capability}"
    with pytest.raises(expected, match=message):
        ModeloptInt8(precision="fp8").apply(exact, StepData(split, seed=0, threads=1), tmp_path)


def test_modelopt_int8_refuses_fp8_without_a_gpu(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqbench.machine.cuda_driver.DRIVER", "libno_such_driver.so")
    with pytest.raises(UnsupportedError, match=r"multiplies FP8.*no NVIDIA driver"):
        ModeloptInt8(precision="fp8").apply(exact, StepData(split, seed=0, threads=1), tmp_path)


def test_modelopt_int8_is_planned_for_onnx() -> None:
    steps = {"modelopt_int8": ModeloptInt8}
    for loads, backend in ((("onnx",), "tensorrt"), (("openvino",), "openvino")):
        assert any(a.name == "modelopt_int8" for a in plan(steps, "torch", loads, backend))
    with pytest.raises(UnsupportedError, match="wired for ONNX"):
        plan(steps, "torch", ("torch",), "torch")
