"""The bench of planted layers: what it plants, and what is found of it, without a clock."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import planted_layer as bench
import pytest
from onnx import helper, numpy_helper


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """Two convolutions with activations and a sum over both sides."""
    noise = np.random.default_rng(0)
    side = bench.SIDE
    weights = [
        numpy_helper.from_array(noise.standard_normal((8, c, 3, 3), np.float32), f"w{c}")
        for c in (3, 8)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w3"], ["c1"], "conv1", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w8"], ["c2"], "conv2", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["y"], "pool"),
    ]
    shape = ["batch", 3, side, side]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8, 1, 1])], weights,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("way", ["kernel", "operators"])
def test_a_plant_changes_no_output(model: onnx.ModelProto, way: str) -> None:
    slow = bench.planted(model, bench.Plant("conv2", way))
    x = np.random.default_rng(1).standard_normal((2, 3, bench.SIDE, bench.SIDE), np.float32)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
        for m in (model, slow)
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("representation", ["onnx", "openvino"])
def test_planted_operators_are_charged_to_the_layer_they_follow(
    model: onnx.ModelProto, representation: str
) -> None:
    table = bench.trial(
        model, bench.planted(model, bench.Plant("conv1", "operators")), representation, 1, 2
    )
    named = [share.name for share in table.shares]  # OpenVINO calls the last one by its output
    assert named[:4] == ["conv1", "relu1", "conv2", "relu2"] and len(named) == 5
    planted = {"onnx": "Sin", "openvino": "Math"}[representation]
    holding = [layer for layer in table.layers if planted in layer.kinds[1]]
    assert [layer.operators[0] for layer in holding] == ["conv1"]
    assert planted not in holding[0].kinds[0]
    own = [sum(layer.ms[side].value for layer in table.layers[:-1]) for side in (0, 1)]
    told = [sum(ms for s in table.shares if (ms := s.ms[side])) for side in (0, 1)]
    assert told == pytest.approx(own)
