"""LiteRT's own quantizer: integer kernels, a small file, near the float network."""

from __future__ import annotations

from pathlib import Path

import pytest
from compress_models import make_tiny, sqnr

from pqbench.assets.converters import LITERT
from pqbench.backends.litert.backend import LitertBackend
from pqbench.compress.litert_int8 import LitertInt8
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.recipe import plan
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

pytest.importorskip("ai_edge_quantizer", reason="pip install 'pqbench[litert]'")


@pytest.mark.skipif(not LITERT.ready(), reason=LITERT.command)
def test_litert_int8_runs_in_integer_kernels(tmp_path: Path, split: PreparedSplit) -> None:
    from pqbench.export import convert

    images = split.feed(slice(0, 8))
    source = make_tiny(tmp_path / "source", split)
    exact = convert(source, "litert", images, tmp_path / "litert")
    (tmp_path / "int8").mkdir()
    data = StepData(split, seed=0, threads=1)
    result = LitertInt8(calibration_size=16).apply(exact, data, tmp_path / "int8")
    assert result.path.stat().st_size < 0.6 * exact.path.stat().st_size
    assert result.lineage[-1].details["calibration_size"] == 16
    session = LitertBackend(1).load(result, [1])
    placement = session.placement()
    assert placement.integer == placement.quantizable == 4
    assert placement.int8_macs_share == 1.0
    float_session = LitertBackend(1).load(exact, [1])
    assert sqnr(float_session.run(images)[0], session.run(images)[0]) > 15


def test_litert_int8_is_planned_for_litert_alone() -> None:
    steps = {"litert_int8": LitertInt8}
    actions = plan(steps, "torch", ("litert",), "litert")
    assert [action.after for action in actions] == ["litert", "litert"]
    with pytest.raises(UnsupportedError, match="quantizer works on LiteRT files"):
        plan(steps, "torch", ("onnx",), "ort")
    with pytest.raises(UnsupportedError, match="compress=litert_int8"):
        plan({"ort_int8": OrtInt8}, "torch", ("litert",), "litert")


def test_litert_int8_refuses_to_calibrate_with_nothing() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        LitertInt8(calibration_size=0)
