"""Dynamic, weight-only and half-precision files, accuracy control, quantization-aware training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from compress_models import make_onnx, make_openvino, make_tiny, run_openvino, run_ort, sqnr

from pqbench.compress.calibration import draw
from pqbench.compress.fp16 import Fp16
from pqbench.compress.nncf_accuracy import NncfAccuracyInt8, _right
from pqbench.compress.nncf_int8 import NncfInt8
from pqbench.compress.nncf_weights import NncfWeights
from pqbench.compress.ort_dynamic import OrtDynamic
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.training.nncf_qat import NncfQat


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> dict[str, Artifact]:
    """One small CNN in every representation, and one with an LSTM."""
    folder = tmp_path_factory.mktemp("tiny")
    source = make_tiny(folder / "torch", split)
    exported = make_onnx(source, folder / "onnx")
    recurrent = make_tiny(folder / "lstm_torch", split, recurrent=True)
    return {
        "torch": source,
        "onnx": exported,
        "openvino": make_openvino(exported, folder / "openvino"),
        "lstm": make_onnx(recurrent, folder / "lstm"),
    }


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def _inputs(split: PreparedSplit) -> np.ndarray:
    return split.feed(slice(0, 8))["input"]


def test_dynamic_makes_linear_and_recurrent_layers_integer(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    source = tiny["lstm"]
    result = OrtDynamic().apply(source, data, tmp_path)
    integer = result.lineage[-1].details["integer_nodes"]
    assert integer == {"MatMulInteger": 2, "DynamicQuantizeLSTM": 1}
    counts = Counter(node.op_type for node in onnx.load(result.path).graph.node)
    assert counts["Conv"] == 2
    x = _inputs(data.train)
    assert sqnr(run_ort(source, x), run_ort(result, x)) > 20
    assert result.path.stat().st_size < 0.5 * source.path.stat().st_size


def test_dynamic_without_such_layers_is_refused(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    with pytest.raises(UnsupportedError, match="nothing to quantize"):
        OrtDynamic(op_types=["LSTM"]).apply(tiny["onnx"], data, tmp_path)


def test_fp16_halves_the_file(tmp_path: Path, tiny: dict[str, Artifact], data: StepData) -> None:
    x = _inputs(data.train)
    exact = run_ort(tiny["onnx"], x)
    for name, run in (("onnx", run_ort), ("openvino", run_openvino)):
        (tmp_path / name).mkdir()
        result = Fp16().apply(tiny[name], data, tmp_path / name)
        assert result.representation == name
        assert sqnr(exact, run(result, x)) > 50
        before, after = (
            sum(p.stat().st_size for p in a.model_files() if p.suffix != ".xml")
            for a in (tiny[name], result)
        )
        assert after < 0.6 * before


def test_weights_are_stored_as_integers(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    x = _inputs(data.train)
    exact = run_ort(tiny["onnx"], x)
    for mode, kinds in (("int8_sym", {"i8"}), ("int4_sym", {"i4", "i8", "u8"})):
        (tmp_path / mode).mkdir()
        result = NncfWeights(mode).apply(tiny["openvino"], data, tmp_path / mode)
        assert set(result.lineage[-1].details["integer_constants"]) <= kinds
        assert sqnr(exact, run_openvino(result, x)) > 10
    model = openvino.Core().read_model(result.path)
    assert "i4" in {op.get_output_element_type(0).get_type_name() for op in model.get_ops()}


@pytest.mark.parametrize("reduced", [False, True])
def test_reduce_range_leaves_a_bit_free(
    reduced: bool, tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    result = OrtInt8(8, reduce_range=reduced).apply(tiny["onnx"], data, tmp_path)
    graph = onnx.load(result.path).graph
    weights = [onnx.numpy_helper.to_array(i) for i in graph.initializer]
    largest = max(int(np.abs(w.astype(int)).max()) for w in weights if w.dtype == np.int8)
    assert largest == (64 if reduced else 127)


@pytest.mark.parametrize("method", ["minmax", "mean_minmax"])
def test_range_is_of_all_images_or_the_mean_of_each_ones(
    method: str, tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    result = OrtInt8(8, method=method).apply(tiny["onnx"], data, tmp_path)
    images = [feed["input"] for feed in draw(tiny["onnx"], data, 8)]
    least, most = np.array([[x.min(), x.max()] for x in images]).T
    low, high = (least.min(), most.max()) if method == "minmax" else (least.mean(), most.mean())
    initializers = {i.name: i for i in onnx.load(result.path).graph.initializer}
    scale = float(onnx.numpy_helper.to_array(initializers["input_scale"]))
    assert scale == pytest.approx((max(high, 0) - min(low, 0)) / 255, rel=1e-4)


def test_excluded_nodes_and_types_stay_float(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    names = [n.name for n in onnx.load(tiny["onnx"].path).graph.node if n.op_type == "Conv"]
    (tmp_path / "named").mkdir()
    (tmp_path / "typed").mkdir()
    whole = OrtInt8(8).apply(tiny["onnx"], data, tmp_path).lineage[-1].details
    named = OrtInt8(8, exclude=names[:1]).apply(tiny["onnx"], data, tmp_path / "named")
    typed = OrtInt8(8, op_types=["Conv"]).apply(tiny["onnx"], data, tmp_path / "typed")
    assert named.lineage[-1].details["dequantize_nodes"] < whole["dequantize_nodes"]
    assert typed.lineage[-1].details["dequantize_nodes"] < whole["dequantize_nodes"]
    with pytest.raises(ConfigError, match="no node 'nowhere'"):
        OrtInt8(8, exclude=["nowhere"]).apply(tiny["onnx"], data, tmp_path)


def test_ort_int8_refuses_types_that_onnx_does_not_have(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    with pytest.raises(ConfigError, match="'MatMull' is no operator type of ONNX"):
        OrtInt8(8, op_types=["Conv", "MatMull"]).apply(tiny["onnx"], data, tmp_path)
    # One that this model has none of is another model's.
    OrtInt8(8, op_types=["Conv", "LSTM"]).apply(tiny["onnx"], data, tmp_path)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_nncf_int8_refuses_to_ignore_what_is_not_there(
    form: str, tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    fast: dict[str, Any] = {"calibration_size": 8}
    with pytest.raises(ConfigError, match="'Convolutoin' is no operator type"):
        NncfInt8(**fast, ignored_types=["Convolutoin"]).apply(tiny[form], data, tmp_path)
    with pytest.raises(ConfigError, match="nowhere"):
        NncfInt8(**fast, ignored_names=[".*", "nowhere.*"]).apply(tiny[form], data, tmp_path)
    # Both formats' names may stand together, so that one setting serves two backends.
    step = NncfInt8(**fast, ignored_types=["HSwish", "GroupConvolution", "LSTM"])
    absent = step.apply(tiny[form], data, tmp_path).lineage[-1].details["ignored_types_absent"]
    assert "LSTM" in absent


def test_nncf_ignored_types_stay_float(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    whole = NncfInt8(8, reduce_range=True).apply(tiny["openvino"], data, tmp_path / "whole")
    step = NncfInt8(8, ignored_types=["Convolution"], fast_bias_correction=False)
    part = step.apply(tiny["openvino"], data, tmp_path / "part")
    counts = [a.lineage[-1].details["quantizers"] for a in (whole, part)]
    assert counts[1] < counts[0]


def test_accuracy_control_scores_images_that_did_not_calibrate(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    step = NncfAccuracyInt8(calibration_size=16, validation_size=32, max_drop=0.05)
    result = step.apply(tiny["openvino"], data, tmp_path)
    details = result.lineage[-1].details
    assert details["validation_images"] == 32
    assert details["quantizers"] > 0
    assert details["reached"]
    assert details["score_kept"] >= details["score_float"] - 0.05
    with pytest.raises(DataError, match="none is left to score"):
        NncfAccuracyInt8(calibration_size=48).apply(tiny["openvino"], data, tmp_path)


def test_right_counts_classes_and_pixels() -> None:
    assert _right(np.array([[0.1, 0.9]]), np.int64(1)) == 1.0
    assert _right(np.array([[0.1, 0.9]]), np.int64(0)) == 0.0
    scores = np.zeros((1, 2, 2, 2))
    assert _right(scores, np.array([[0, 1], [255, 0]])) == pytest.approx(2 / 3)
    with pytest.raises(UnsupportedError, match="one class per sample or pixel"):
        _right(np.zeros((1, 2)), np.zeros(3))


def test_qat_budget_says_what_is_not_said() -> None:
    """One pass, unless a budget is asked for: it is then what it is for ``finetune``."""
    once, full = NncfQat().settings(0, 1), NncfQat(budget="full").settings(0, 1)
    assert (once.epochs, once.validation_share, once.patience, once.ema) == (1, 0.0, None, 0.0)
    assert (full.epochs, full.validation_share, full.patience, full.ema) == (60, 0.1, 12, 0.99)
    assert NncfQat(budget="full", epochs=3).settings(0, 1).epochs == 3


def test_qat_keeps_the_best_average(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    step = NncfQat(budget="full", epochs=2, batch_size=32, calibration_size=16)
    details = step.apply(tiny["torch"], data, tmp_path).lineage[-1].details
    assert len(details["validation_loss"]) == details["epochs"] == 2
    assert details["quantizers"] > 0


def test_qat_gives_an_openvino_model_with_quantizers(
    tmp_path: Path, tiny: dict[str, Artifact], data: StepData
) -> None:
    step = NncfQat(max_steps=2, batch_size=8, calibration_size=16, augment="none")
    result = step.apply(tiny["torch"], data, tmp_path)
    assert result.representation == "openvino"
    details = result.lineage[-1].details
    assert details["steps"] == 2
    assert details["quantizers"] > 0
    x = _inputs(data.train)
    assert sqnr(run_ort(tiny["onnx"], x), run_openvino(result, x)) > 10
    model = openvino.Core().read_model(result.path)
    assert [port.get_any_name() for port in (*model.inputs, *model.outputs)] == ["input", "logits"]
    assert model.inputs[0].partial_shape[0].is_dynamic
