"""INT8 quantization with ONNX Runtime and NNCF, run in both runtimes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from compress_models import make_onnx, make_openvino, make_torch, run_openvino, run_ort, sqnr

from pqbench.compress.calibration import draw
from pqbench.compress.nncf_int8 import NncfInt8
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.prune import Prune
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.machine.cpu import cpu_saturates_int8

MODELS = ("resnet18", "efficientnet_lite0")


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("floats")
    return {
        name: make_onnx(make_torch(name, folder / f"{name}_torch", split), folder / name)
        for name in MODELS
    }


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def _inputs(split: PreparedSplit) -> np.ndarray:
    return split.feed(slice(0, 8))["input"]


@pytest.mark.parametrize("name", MODELS)
def test_ort_int8_runs_in_both_runtimes(
    name: str, tmp_path: Path, floats: dict[str, Artifact], data: StepData
) -> None:
    source = floats[name]
    # As conf/compress/ort_int8.yaml has it: without VNNI, 8-bit weights saturate (6 dB on Lite0).
    step = OrtInt8(calibration_size=24, reduce_range=cpu_saturates_int8())
    result = step.apply(source, data, tmp_path)
    x = _inputs(data.train)
    exact = run_ort(source, x)
    assert sqnr(exact, run_ort(result, x)) > 12
    assert sqnr(exact, run_openvino(result, x)) > 12
    assert result.path.stat().st_size < 0.3 * source.path.stat().st_size
    assert [p.name for p in result.model_files()] == ["model.onnx"]
    entry = Artifact.load(tmp_path).lineage[-1]
    counts = Counter(node.op_type for node in onnx.load(result.path).graph.node)
    assert entry.action == "ort_int8"
    assert entry.details["quantize_nodes"] == counts["QuantizeLinear"] > 20
    assert entry.details["calibration_size"] == 24
    assert entry.details["calibration_split"] == "train"


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_ort_int8_with_histograms_is_silent_and_close(
    method: str,
    tmp_path: Path,
    floats: dict[str, Artifact],
    data: StepData,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = floats["resnet18"]
    result = OrtInt8(calibration_size=6, method=method).apply(source, data, tmp_path)
    assert capsys.readouterr().out == ""
    x = _inputs(data.train)
    assert sqnr(run_ort(source, x), run_ort(result, x)) > 10


def test_ort_int8_symmetric_form_has_no_zero_points_and_float_biases(
    tmp_path: Path, floats: dict[str, Artifact], data: StepData
) -> None:
    step = OrtInt8(8, activation="int8", symmetric=True, quantize_bias=False)
    result = step.apply(floats["resnet18"], data, tmp_path)
    model = onnx.load(result.path)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros = [
        values[node.input[2]]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(zeros) > 20
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


@pytest.mark.parametrize("name", MODELS)
def test_nncf_int8_keeps_the_representation_it_was_given(
    name: str, tmp_path: Path, floats: dict[str, Artifact], data: StepData
) -> None:
    source = floats[name]
    x = _inputs(data.train)
    exact = run_ort(source, x)
    step = NncfInt8(calibration_size=16)

    as_onnx = step.apply(source, data, _folder(tmp_path, "onnx"))
    assert as_onnx.representation == "onnx"
    assert sqnr(exact, run_ort(as_onnx, x)) > 8
    assert sqnr(exact, run_openvino(as_onnx, x)) > 8
    counts = Counter(node.op_type for node in onnx.load(as_onnx.path).graph.node)
    assert as_onnx.lineage[-1].details["quantizers"] == counts["DequantizeLinear"] > 20

    native = step.apply(
        make_openvino(source, tmp_path / "float"), data, _folder(tmp_path, "native")
    )
    assert native.representation == "openvino"
    assert {p.name for p in native.model_files()} == {"model.xml", "model.bin"}
    assert sqnr(exact, run_openvino(native, x)) > 8
    details = native.lineage[-1].details
    assert details["quantizers"] > 20
    assert details["treated_as"] == "cnn"
    assert sum(p.stat().st_size for p in native.model_files()) < 0.4 * source.path.stat().st_size
    assert _float_kernels(native) == []  # depthwise ones among them
    with pytest.raises(UnsupportedError, match="quantized already"):
        step.apply(native, data, _folder(tmp_path, "again"))


def _float_kernels(artifact: Artifact) -> list[tuple[int, ...]]:
    """Shapes of float constants with four dimensions or more that are not one value per channel."""
    shapes = [
        tuple(node.get_output_shape(0))
        for node in openvino.Core().read_model(artifact.path).get_ops()
        if node.get_type_name() == "Constant" and node.get_output_element_type(0).is_real()
    ]
    return [shape for shape in shapes if len(shape) > 3 and np.prod(shape) > max(shape)]


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


@pytest.mark.parametrize("step", [OrtInt8(8), NncfInt8(8)])
def test_quantized_onnx_is_refused(
    step: OrtInt8 | NncfInt8, tmp_path: Path, floats: dict[str, Artifact], data: StepData
) -> None:
    first = OrtInt8(8).apply(floats["resnet18"], data, _folder(tmp_path, "first"))
    with pytest.raises(UnsupportedError, match="quantized already"):
        step.apply(first, data, _folder(tmp_path, "second"))


def test_pruned_network_quantizes(tmp_path: Path, split: PreparedSplit, data: StepData) -> None:
    source = make_torch("resnet18", tmp_path / "source", split)
    pruned = Prune(criterion="magnitude_l2", recalibrate_bn=48).apply(
        source, data, tmp_path / "pruned"
    )
    exported = make_onnx(pruned, tmp_path / "onnx")
    result = OrtInt8(24).apply(exported, data, _folder(tmp_path, "int8"))
    x = _inputs(split)
    assert sqnr(run_ort(exported, x), run_ort(result, x)) > 10
    assert result.path.stat().st_size < 0.5 * exported.path.stat().st_size


def test_attention_is_recognised(tmp_path: Path) -> None:
    import torch
    from openvino import convert_model
    from torch import nn

    from pqbench.compress.nncf_int8 import onnx_edges, openvino_edges

    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(
        layer, (torch.zeros(1, 4, 16),), path, dynamo=True, external_data=False, verbose=False
    )
    step = NncfInt8()
    assert step.is_transformer(onnx_edges(onnx.load(path)))
    assert step.is_transformer(openvino_edges(convert_model(path)))
    assert not NncfInt8(architecture="cnn").is_transformer({("Softmax", "MatMul")})
    assert not step.is_transformer({("Conv", "Relu"), ("Gemm", "Softmax")})


def test_calibration_is_drawn_from_train_with_a_seed(
    floats: dict[str, Artifact], split: PreparedSplit
) -> None:
    source = floats["resnet18"]
    one, same, other = (draw(source, StepData(split, seed, 1), 16) for seed in (0, 0, 1))
    assert one.details() == same.details() != other.details()
    labels = split.labels()[one.indices]
    share = split.labels().mean()
    assert abs(labels.mean() - share) < 0.1
    assert [feed["input"].shape for feed in one] == [(1, 3, 64, 64)] * 16
