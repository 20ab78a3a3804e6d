"""MNN's own quantizer: integer kernels, a small file, near the float network."""

from __future__ import annotations

from pathlib import Path

import pytest
from compress_models import make_tiny, sqnr

from pqbench.backends.mnn.backend import MnnBackend
from pqbench.compress import mnn_int8
from pqbench.compress.mnn_int8 import MnnInt8
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

pytest.importorskip("MNN", reason="pip install MNN")


@pytest.fixture(scope="module")
def exact(split: PreparedSplit, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from pqbench.export import convert

    folder = tmp_path_factory.mktemp("mnn")
    source = make_tiny(folder / "source", split)
    return convert(source, "mnn", split.feed(slice(0, 8)), folder / "mnn")


@pytest.mark.parametrize(("method", "decibels"), [("ema", 12), ("admm", 8)])
def test_mnn_int8_runs_in_integer_kernels(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, method: str, decibels: float
) -> None:
    data = StepData(split, seed=0, threads=1)
    result = MnnInt8(calibration_size=8, method=method).apply(exact, data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact.json", "model.mnn"]
    assert result.path.stat().st_size < 0.6 * exact.path.stat().st_size
    session = MnnBackend(1).load(result, [1])
    placement = session.placement()
    assert placement.integer == placement.quantizable == 4
    images = split.feed(slice(0, 1))
    assert sqnr(MnnBackend(1).load(exact, [1]).run(images)[0], session.run(images)[0]) > decibels


def test_mnn_int8_says_how_the_quantizer_ended(
    exact: Artifact, split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called as the package's own command calls it, the quantizer aborts."""
    wrong = "import sys, _tools; _tools.mnnquant(*sys.argv[1:])"
    monkeypatch.setattr(mnn_int8, "_PROGRAM", wrong)
    data = StepData(split, seed=0, threads=1)
    with pytest.raises(UnsupportedError, match=r"quantizer ends with status -6: .*max_size"):
        MnnInt8(calibration_size=1).apply(exact, data, tmp_path)


def test_mnn_int8_refuses_a_method_that_the_tool_cannot_finish() -> None:
    with pytest.raises(ConfigError, match=r"mnn_int8.method 'kl' is unknown"):
        MnnInt8(method="kl")


def test_mnn_int8_is_planned_for_mnn_alone() -> None:
    steps = {"mnn_int8": MnnInt8}
    actions = plan(steps, "torch", ("mnn",), "mnn")
    assert [action.after for action in actions] == ["onnx", "mnn", "mnn"]
    with pytest.raises(UnsupportedError, match="quantizer works on MNN files"):
        plan(steps, "torch", ("onnx",), "ort")
