"""AIMET: a Q/DQ file that runtimes compute in integers, its weights rounded adaptively if asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compress_models import int8_weights, make_onnx, make_tiny, run_openvino, run_ort, sqnr

from pqbench.assets.converters import AIMET
from pqbench.compress.aimet_int8 import AimetInt8
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

needed = pytest.mark.skipif(not AIMET.ready(), reason=AIMET.command)


@pytest.fixture(scope="module")
def exact(split: PreparedSplit, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("aimet")
    return make_onnx(make_tiny(folder / "source", split), folder / "onnx")


@needed
@pytest.mark.parametrize("method", ["minmax", "sqnr"])
def test_aimet_int8_writes_a_small_file_that_both_runtimes_take(
    method: str, exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1)
    result = AimetInt8(calibration_size=16, method=method).apply(exact, data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact.json", "model.onnx"]
    assert result.path.stat().st_size < 0.6 * exact.path.stat().st_size
    details = result.lineage[-1].details
    assert details["calibration_size"] == 16 and details["tool_versions"]["aimet-onnx"]
    images = split.feed(slice(0, 8))["input"]
    floats = run_ort(exact, images)
    assert sqnr(floats, run_ort(result, images)) > 15
    assert sqnr(floats, run_openvino(result, images)) > 15


@needed
def test_aimet_int8_rounds_weights_by_one_step_at_most(
    exact: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1)
    (tmp_path / "nearest").mkdir()
    (tmp_path / "adaptive").mkdir()
    nearest = AimetInt8(calibration_size=8, method="minmax").apply(
        exact, data, tmp_path / "nearest"
    )
    adaptive = AimetInt8(
        calibration_size=8,
        method="minmax",
        adaround=True,
        adaround_images=8,
        adaround_iterations=200,
    ).apply(exact, data, tmp_path / "adaptive")
    before, after = int8_weights(nearest), int8_weights(adaptive)
    assert before.keys() == after.keys() and len(before) == 4
    moved = [np.abs(before[k].astype(int) - after[k].astype(int)) for k in before]
    assert max(int(m.max()) for m in moved) == 1
    assert sum(int(m.sum()) for m in moved) > 0


def test_aimet_int8_that_is_missing_is_said_with_the_remedy(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="AIMET, which has an environment") as caught:
        AimetInt8().apply(exact, StepData(split, seed=0, threads=1), tmp_path)
    assert caught.value.hint == "python -m pqbench.runtimes install aimet"


def test_aimet_int8_is_planned_for_onnx() -> None:
    steps = {"aimet_int8": AimetInt8}
    for loads, backend in ((("onnx",), "ort"), (("openvino",), "openvino")):
        assert any(a.name == "aimet_int8" for a in plan(steps, "torch", loads, backend))
    with pytest.raises(UnsupportedError, match="aimet-onnx works on ONNX files"):
        plan(steps, "torch", ("torch",), "torch")
