"""ExecuTorch's INT8: integer kernels, a smaller program, answers like the float network's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compress_models import make_tiny, sqnr

from pqbench.backends.executorch.backend import ExecutorchBackend
from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress import executorch_int8 as module
from pqbench.compress.executorch_int8 import ExecutorchInt8
from pqbench.compress.prune import Prune
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.export import convert

pytest.importorskip("executorch", reason="pip install 'pqbench[executorch]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter
STEP = ExecutorchInt8(calibration_size=8)


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def test_executorch_int8_of_a_pruned_network_runs_in_integer_kernels(
    tmp_path: Path, data: StepData
) -> None:
    folders = [tmp_path / name for name in ("source", "pruned", "result", "float")]
    for folder in folders[1:]:
        folder.mkdir()
    source = make_tiny(folders[0], data.train)
    pruned = Prune(pruning_ratio=0.5, recalibrate_bn=0).apply(source, data, folders[1])
    STEP.apply(pruned, data, folders[2])
    loaded = Artifact.load(folders[2])
    assert loaded.representation == "executorch"
    assert loaded.lineage[-1].details["layers"] == 4
    assert loaded.lineage[-1].details["parity_db"] > 20
    x = data.train.feed(slice(0, 8))
    as_float = convert(pruned, "executorch", x, folders[3])
    assert loaded.path.stat().st_size < 0.8 * as_float.path.stat().st_size
    exact = TorchBackend(threads=1).load(pruned, [8]).run(x)[0]
    session = ExecutorchBackend(1).load(loaded, [8])
    assert sqnr(exact, session.run(x)[0]) > 20
    placement = session.placement()
    assert (placement.integer, placement.quantizable) == (4, 4)
    assert not placement.float_reasons


def test_executorch_int8_leaves_ignored_layers_in_float(tmp_path: Path, data: StepData) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    (tmp_path / "result").mkdir()
    step = ExecutorchInt8(calibration_size=4, ignored_layers=["head"])
    result = step.apply(source, data, tmp_path / "result")
    placement = ExecutorchBackend(1).load(result, [1]).placement()
    assert (placement.integer, placement.quantizable) == (3, 4)
    assert list(placement.float_reasons.values()) == [1]
    with pytest.raises(UnsupportedError, match="no layer tail"):
        ExecutorchInt8(ignored_layers=["tail"]).apply(source, data, tmp_path)
    with pytest.raises(ConfigError, match="calibration_size"):
        ExecutorchInt8(calibration_size=0)


def test_executorch_int8_refuses_a_program_that_computes_something_else(
    tmp_path: Path, data: StepData, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    right = module.run_sample

    def wrong(method: Any, arrays: list[Any]) -> list[Any]:
        return [-output for output in right(method, arrays)]

    monkeypatch.setattr(module, "run_sample", wrong)
    with pytest.raises(UnsupportedError, match="differs from the quantized network"):
        ExecutorchInt8(calibration_size=4).apply(source, data, tmp_path)


def test_executorch_int8_names_what_cannot_be_quantized(tmp_path: Path, data: StepData) -> None:
    source = make_tiny(tmp_path / "source", data.train)
    whole = ExecutorchInt8(calibration_size=4, ignored_layers=["body", "hidden", "head"])
    with pytest.raises(UnsupportedError, match="nothing to quantize"):
        whole.apply(source, data, tmp_path)


def test_executorch_int8_goes_to_executorch_alone() -> None:
    steps = {"executorch_int8": STEP}
    (action,) = plan(steps, "torch", ExecutorchBackend.loads, "executorch")
    assert (action.kind, action.after) == ("step", "executorch")
    with pytest.raises(UnsupportedError, match="made for ExecuTorch's runtime"):
        plan(steps, "torch", ["onnx"], "ort")
