"""Hard-sigmoids as integer sums, biases that keep means: on real graphs and real images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compress_models import make_onnx, make_torch, run_ort, sqnr

from pqbench.compress.bias_correction import biases, channel_means, middle_mean, opened
from pqbench.compress.equalize import equalize, pairs
from pqbench.compress.integer_gates import pool_means
from pqbench.compress.ort_int8 import OrtInt8
from pqbench.core.artifact import Artifact
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets import onnx_graph


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    folder = tmp_path_factory.mktemp("mobilenet")
    return make_onnx(make_torch("mobilenet_v3_small", folder / "t", split), folder / "onnx")


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def _made(step: OrtInt8, source: Artifact, data: StepData, folder: Path) -> Artifact:
    folder.mkdir()
    return step.apply(source, data, folder)


def _optimized(artifact: Artifact, folder: Path) -> Counter[str]:
    """Kernel types of ONNX Runtime's own optimized graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_gates_run_as_integer_kernels_and_compute_the_same(
    mobilenet: Artifact, data: StepData, tmp_path: Path
) -> None:
    plain = _made(
        OrtInt8(calibration_size=32, integer_gates=False), mobilenet, data, tmp_path / "plain"
    )
    gated = _made(OrtInt8(calibration_size=32), mobilenet, data, tmp_path / "gated")
    before, after = _optimized(plain, tmp_path), _optimized(gated, tmp_path)
    assert before["HardSigmoid"] > 20
    assert before["ReduceMean"] > 5
    assert after["HardSigmoid"] == after["ReduceMean"] == 0
    assert after["QLinearAdd"] >= before["QLinearAdd"] + before["HardSigmoid"]
    assert after["QLinearGlobalAveragePool"] >= before["ReduceMean"]
    assert gated.lineage[-1].details["integer_gates"] == before["HardSigmoid"]
    x = data.train.feed(slice(0, 16))["input"]
    exact = run_ort(mobilenet, x)
    assert sqnr(exact, run_ort(gated, x)) > sqnr(exact, run_ort(plain, x)) - 1.5


def test_gates_of_other_slopes_keep_their_limits(tmp_path: Path, split: PreparedSplit) -> None:
    """A hard-sigmoid with inputs far beyond both of its limits, of another slope than torch's."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = np.random.default_rng(0).normal(size=(8, 3, 1, 1)).astype(np.float32) * 4
    nodes = [
        helper.make_node("Conv", ["input", "weight", "bias"], ["x"], "conv"),
        helper.make_node("HardSigmoid", ["x"], ["gate"], "gate", alpha=0.2, beta=0.3),
        helper.make_node("Mul", ["x", "gate"], ["y"], "mul"),
        helper.make_node("GlobalAveragePool", ["y"], ["logits"], "pool"),
    ]
    graph = helper.make_graph(
        nodes,
        "gates",
        [helper.make_tensor_value_info("input", 1, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 8, 1, 1])],
        [numpy_helper.from_array(weight, "weight"),
         numpy_helper.from_array(np.zeros(8, np.float32), "bias")],
    )  # fmt: skip
    (tmp_path / "s").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "s" / "model.onnx")
    source = Artifact("onnx", tmp_path / "s", "model.onnx", split.specs(), ("logits",))
    step = OrtInt8(calibration_size=48, method="minmax")  # so that no value is cut off
    result = _made(step, source, StepData(split, 0, 1), tmp_path / "out")
    assert result.lineage[-1].details["integer_gates"] == 1
    x = split.feed(slice(0, 48))["input"]
    assert sqnr(run_ort(source, x), run_ort(result, x)) > 30


def test_pool_means_takes_means_over_places_alone(mobilenet: Artifact) -> None:
    model = onnx.load(mobilenet.path)
    means = [node for node in model.graph.node if node.op_type == "ReduceMean"]
    assert pool_means(model) == len(means) > 5
    onnx.checker.check_model(model)
    helper = onnx.helper
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)],
        "channels",
        [helper.make_tensor_value_info("x", 1, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", 1, [1, 1, 4, 4])],
        [axes],
    )
    assert pool_means(helper.make_model(graph)) == 0


def test_corrected_layers_have_the_means_of_float(
    mobilenet: Artifact, data: StepData, tmp_path: Path
) -> None:
    plain = _made(OrtInt8(calibration_size=32), mobilenet, data, tmp_path / "plain")
    step = OrtInt8(calibration_size=32, bias_correction=True)
    corrected = _made(step, mobilenet, data, tmp_path / "corrected")
    details = corrected.lineage[-1].details
    assert details["corrected_biases"] == 34  # those of gates and Linear layers are left
    assert details["bias_images"] == 32
    feeds = [data.train.feed(slice(i, i + 1)) for i in data.train.spread(32, 0)]
    exact = onnx.load(mobilenet.path)
    outputs = {node.name: node.output[0] for node in exact.graph.node}

    def error(artifact: Artifact) -> float:
        model = onnx.load(artifact.path)
        known = [bias for bias in biases(model.graph) if bias.layer in outputs]
        assert len(known) >= 34
        truth = channel_means(exact, [outputs[b.layer] for b in known], feeds, 1)
        found = channel_means(model, [b.output for b in known], feeds, 1)
        return float(
            np.mean([
                np.abs(middle_mean(truth[outputs[b.layer]] - found[b.output])).mean()
                / middle_mean(truth[outputs[b.layer]]).std() for b in known
            ])
        )  # fmt: skip

    assert error(corrected) < 0.05 * error(plain)


def test_shifted_biases_are_put_back(mobilenet: Artifact, data: StepData, tmp_path: Path) -> None:
    """Biases in float (``quantize_bias=False``), planted wrong before they are corrected."""
    from pqbench.compress.bias_correction import correct_biases

    step = OrtInt8(calibration_size=16, quantize_bias=False)
    made = _made(step, mobilenet, data, tmp_path / "made")
    model = onnx.load(made.path)
    found = biases(model.graph)
    assert {bias.scale for bias in found} == {""}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    bias = found[3]
    right = onnx.numpy_helper.to_array(stored[bias.tensor]).copy()
    stored[bias.tensor].CopyFrom(onnx.numpy_helper.from_array(right + 2, bias.tensor))
    onnx_graph.save(model, made.path)
    feeds = [data.train.feed(slice(i, i + 1)) for i in range(16)]
    correct_biases(mobilenet.path, made.path, feeds, 1)
    again = {t.name: t for t in onnx.load(made.path).graph.initializer}
    assert np.abs(onnx.numpy_helper.to_array(again[bias.tensor]) - right).max() < 0.5


def test_middle_mean_is_not_moved_by_a_few() -> None:
    values = np.tile(np.linspace(-1, 1, 64)[:, None], (1, 3))
    np.testing.assert_allclose(middle_mean(values), 0, atol=1e-12)
    values[np.argsort(values[:, 0])[-6:]] = 1e6
    assert np.abs(middle_mean(values)).max() < 0.1
    np.testing.assert_allclose(middle_mean(np.array([[1.0], [2.0]])), [1.5])


def test_sessions_of_models_and_of_files_agree(mobilenet: Artifact, data: StepData) -> None:
    feed = data.train.feed(slice(0, 2))
    one, other = (opened(m, 1).run(None, feed)[0] for m in (mobilenet.path,
                                                            onnx.load(mobilenet.path)))  # fmt: skip
    torch.testing.assert_close(torch.from_numpy(one), torch.from_numpy(other))


def test_equalized_model_computes_the_same_with_alike_ranges(mobilenet: Artifact) -> None:
    model, before = onnx.load(mobilenet.path), onnx.load(mobilenet.path)
    found = pairs(model.graph)
    assert equalize(model) == len(found) >= 5

    def unlike(one: onnx.ModelProto) -> float:
        """Mean logarithm of how far the ranges of a channel in both layers are apart."""
        stored = {t.name: onnx.numpy_helper.to_array(t) for t in one.graph.initializer}
        apart = []
        for pair in found:
            first, second = stored[pair.first[0]], stored[pair.second]
            read = second if pair.depthwise else np.swapaxes(second, 0, 1)
            a, b = (np.abs(w).reshape(len(w), -1).max(axis=1) for w in (first, read))
            apart.append(np.abs(np.log(a / b)).mean())
        return float(np.mean(apart))

    assert unlike(model) < 0.05 * unlike(before)
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    one, other = (opened(m, 1).run(None, {"input": x})[0] for m in (before, model))
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)


def test_step_equalizes_where_it_is_asked(
    mobilenet: Artifact, data: StepData, tmp_path: Path
) -> None:
    made = []
    for asked in (False, True):
        step = OrtInt8(calibration_size=16, method="minmax", equalize=asked)
        made.append(_made(step, mobilenet, data, tmp_path / str(asked)))
    plain, equal = made
    x = data.train.feed(slice(0, 16))["input"]
    exact = run_ort(mobilenet, x)
    assert sqnr(exact, run_ort(equal, x)) != sqnr(exact, run_ort(plain, x))
    assert sqnr(exact, run_ort(equal, x)) > 5
