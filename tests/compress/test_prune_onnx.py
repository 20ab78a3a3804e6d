"""Zeros in the weights of an ONNX file: how many, where, and what stays as it was."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from compress_models import run_ort
from onnx import numpy_helper

from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.prune_onnx import PruneOnnx
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

SIDE = 64  # of the images of the fixture split


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    """Convolution, mean, LSTM over one step, product: with a bias and a constant beside weights."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv": (32, 3, 5, 5),
        "bias": (32,),
        "w": (1, 64, 32),
        "r": (1, 64, 16),
        "m": (16, 9),
    }
    values = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    shape = numpy_helper.from_array(np.array([1, -1, 32]), "shape")
    last = numpy_helper.from_array(np.array([-1, 16]), "last")
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["input", "conv", "bias"], ["c"], name="first", strides=[4, 4]),
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Reshape", ["g", "shape"], ["s"]),
            node("LSTM", ["s", "w", "r"], ["", "h"], hidden_size=16),
            node("Reshape", ["h", "last"], ["f"]),
            node("MatMul", ["f", "m"], ["logits"]),
        ],
        "net",
        [info("input", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [info("logits", onnx.TensorProto.FLOAT, ["n", 9])],
        [*(numpy_helper.from_array(v, n) for n, v in values.items()), shape, last],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    folder = tmp_path_factory.mktemp("source")
    onnx.save(model, folder / "model.onnx")
    artifact = Artifact("onnx", folder, "model.onnx", split.specs(), ("logits",))
    artifact.save()
    return artifact


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def tensors(artifact: Artifact) -> dict[str, np.ndarray]:
    graph = onnx.load(artifact.path).graph
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_smallest_weights_become_zero_and_all_else_stays(
    scope: str, tmp_path: Path, source: Artifact, data: StepData
) -> None:
    result = PruneOnnx(sparsity=0.6, scope=scope).apply(source, data, tmp_path)
    details = result.lineage[-1].details
    assert details["zero_share"] == pytest.approx(0.6, abs=0.01)
    before, after = tensors(source), tensors(result)
    assert before.keys() == after.keys()
    pruned = details["layers"]
    assert set(pruned) == {"conv", "w", "r", "m"}
    for name, value in before.items():
        if name not in pruned:
            np.testing.assert_array_equal(after[name], value)
            continue
        kept = after[name] != 0
        np.testing.assert_array_equal(after[name][kept], value[kept])
        assert np.abs(value[~kept]).max(initial=0) <= np.abs(value[kept]).min()
    if scope == "layer":
        assert all(share == pytest.approx(0.6, abs=0.02) for share in pruned.values())
    x = data.train.feed(slice(0, 2))["input"]
    raw, small = source.path.read_bytes(), result.path.read_bytes()
    assert len(small) == pytest.approx(len(raw), rel=0.01)  # zeros are stored like other numbers
    assert len(zlib.compress(small)) < 0.75 * len(zlib.compress(raw))
    assert run_ort(result, x).shape == run_ort(source, x).shape


def test_excluded_node_keeps_its_weights(tmp_path: Path, source: Artifact, data: StepData) -> None:
    graph = onnx.load(source.path).graph
    conv = next(node for node in graph.node if node.op_type == "Conv")
    result = PruneOnnx(exclude=[conv.name]).apply(source, data, tmp_path)
    assert conv.input[1] not in result.lineage[-1].details["layers"]
    with pytest.raises(ConfigError, match="no node 'nothing'"):
        PruneOnnx(exclude=["nothing"]).apply(source, data, tmp_path)


def test_quantized_or_weightless_model_is_refused(
    tmp_path: Path, source: Artifact, data: StepData
) -> None:
    quantized = OrtInt8(calibration_size=4, op_types=["Conv"]).apply(source, data, tmp_path)
    with pytest.raises(UnsupportedError, match="quantized already"):
        PruneOnnx().apply(quantized, data, tmp_path)
    relu = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["input"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        )
    )
    onnx.save(relu, tmp_path / "relu.onnx")
    bare = Artifact("onnx", tmp_path, "relu.onnx", source.inputs, ("y",))
    with pytest.raises(UnsupportedError, match="no weights"):
        PruneOnnx().apply(bare, data, tmp_path)


@pytest.mark.parametrize("options", [{"sparsity": 1.0}, {"scope": "all"}])
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PruneOnnx(**options)  # type: ignore[arg-type]
