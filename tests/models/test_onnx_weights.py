"""However an exporter stored the weights: all are counted, all are pruned, all become float16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import SIDE, constants, head, info, run_plain, trunk, weights, write

from pqbench.compress.fp16 import Fp16
from pqbench.compress.prune_onnx import PruneOnnx
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import StepData
from pqbench.measure.size import count_work
from pqbench.models.onnx.prepare import prepare_onnx
from pqbench.models.settings import ModelSettings
from pqbench.nets.onnx_graph import layer_weights
from pqbench.nets.onnx_parameters import count_parameters

node = helper.make_node
LAYERS, ALL = 5104, 5154
IMAGES = np.random.default_rng(0).standard_normal((4, 3, SIDE, SIDE), np.float32)


def listed(path: Path) -> Path:
    """All weights are also inputs with a default, and a BatchNormalization follows."""
    nodes = trunk()
    nodes.insert(1, node("BatchNormalization", ["c1", "s", "o", "m", "v"], ["n"], name="bn"))
    nodes[2].input[0] = "n"
    stored = {**weights(), **{k: np.full(16, 0.5, np.float32) for k in ("s", "o", "m", "v")}}
    inputs = [info("x", ["N", 3, SIDE, SIDE]), *(info(k, v.shape) for k, v in stored.items())]
    return write(path, nodes + head(), stored, inputs)


def behind(path: Path, how: str) -> Path:
    """Weights behind operators that only move or cast them."""
    stored: dict[str, Any] = weights()
    if how == "transpose":
        stored["wt"] = stored.pop("wf").T.copy()
        extra = [node("Transpose", ["wt"], ["wf"], perm=[1, 0])]
    elif how == "identity":
        stored["shared"] = stored.pop("w2")
        extra = [node("Identity", ["shared"], ["w2"])]
    elif how == "cast":
        stored["half"] = stored.pop("w2").astype(np.float16)
        extra = [node("Cast", ["half"], ["w2"], to=TensorProto.FLOAT)]
    elif how == "function":
        function = helper.make_function(
            "mine", "Same", ["a"], ["b"], [node("Identity", ["a"], ["b"])],
            [helper.make_opsetid("", 17)],
        )  # fmt: skip
        stored["shared"] = stored.pop("w2")
        write(path, [node("Same", ["shared"], ["w2"], domain="mine"), *trunk(), *head()], stored)
        model = onnx.load(path)
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("mine", 1))
        onnx.save(model, path)
        return path
    else:
        whole = np.round(stored.pop("w2") * 100).astype(np.int8)
        stored |= {"whole": whole, "step": np.array(0.01, np.float32)}
        extra = [node("Cast", ["whole"], ["real"], to=TensorProto.FLOAT),
                 node("Mul", ["real", "step"], ["w2"])]  # fmt: skip
    return write(path, [*extra, *trunk(), *head()], stored)


def in_branches(path: Path) -> Path:
    """The network is one of two branches; which is known once a comparison is computed."""
    stored = [numpy_helper.from_array(v, k) for k, v in weights().items()]
    zeros = [numpy_helper.from_array(0 * v, k) for k, v in weights().items()]
    branches = {
        f"{name}_branch": helper.make_graph(
            [*trunk(), *head("out")], name, [], [info("out", ["N", 2])], tensors
        )
        for name, tensors in (("then", stored), ("else", zeros))
    }
    nodes = [
        node("Equal", ["rate", "wanted"], ["is_wanted"]),
        node("If", ["is_wanted"], ["f"], **branches),  # `f` is a name inside as well
        node("Identity", ["f"], ["y"]),
    ]
    return write(path, nodes, {"rate": np.array(16000), "wanted": np.array(16000)})


def make(path: Path, kind: str) -> Path:
    stored = weights()
    if kind == "branches":
        return in_branches(path)
    if kind == "plain":
        return write(path, trunk() + head())
    if kind == "constants":
        return write(path, constants(stored) + trunk() + head(), {})
    if kind == "some constants":
        fixed = {k: stored.pop(k) for k in ("w1", "w2", "b1", "b2")}
        return write(path, constants(fixed) + trunk() + head(), stored)
    if kind == "listed":
        return listed(path)
    if kind == "external":
        model = onnx.load(write(path, trunk() + head()))
        onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
        return path
    return behind(path, kind)


KINDS = (
    "plain", "constants", "some constants", "listed", "external", "transpose", "identity", "cast",
    "whole numbers", "function", "branches",
)  # fmt: skip


def prepared(folder: Path, kind: str, steps: bool = True) -> tuple[Path, Artifact]:
    file = make(folder / "given.onnx", kind)
    artifact = prepare_onnx(
        ModelSettings(name="mine", file=str(file)),
        ("a", "b"),
        None,
        (TensorSpec("input", (None, 3, SIDE, SIDE)),),
        {"input": IMAGES},
        folder / "prepared",
        upgrade=steps,
    )
    return file, artifact


def data() -> StepData:
    return StepData(train=None, seed=0, threads=1)  # type: ignore[arg-type]  # not looked at


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_file_computes_the_same_with_all_weights_in_reach(
    kind: str, tmp_path: Path
) -> None:
    file, artifact = prepared(tmp_path, kind)
    got, wanted = run_plain(artifact.path, IMAGES)[0], run_plain(file, IMAGES)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
    model = onnx.load(artifact.path)
    stored = {t.name for t in model.graph.initializer}
    assert sum(np.prod(t.dims) for t in model.graph.initializer if t.name in
               layer_weights(model.graph)) == LAYERS  # fmt: skip
    assert stored.isdisjoint(value.name for value in model.graph.input)
    assert count_work(artifact)["parameters"] == ALL + (32 if kind == "listed" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_prune_onnx_zeroes_half_of_all_weights(kind: str, tmp_path: Path) -> None:
    _, artifact = prepared(tmp_path, kind)
    (tmp_path / "pruned").mkdir()
    pruned = PruneOnnx(sparsity=0.5).apply(artifact, data(), tmp_path / "pruned")
    details = pruned.lineage[-1].details
    assert details["weights"] == LAYERS
    # Of weights that were whole numbers, several lie at the limit and go together.
    assert details["zero_share"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["constants", "listed", "transpose", "external"])
def test_fp16_converts_all_weights(kind: str, tmp_path: Path) -> None:
    _, artifact = prepared(tmp_path, kind)
    (tmp_path / "half").mkdir()
    half = Fp16().apply(artifact, data(), tmp_path / "half")
    assert half.lineage[-1].details["share_of_parameters"] > 0.95
    kinds = {t.data_type for t in onnx.load(half.path).graph.initializer if len(t.dims) > 1}
    assert kinds == {TensorProto.FLOAT16}


def inside_a_branch(path: Path) -> Path:
    """Most weights are constants in the bodies of an If node, where no step looks."""
    stored = weights()
    large = np.random.default_rng(0).standard_normal((32, 512)).astype(np.float32)
    back = np.random.default_rng(1).standard_normal((512, 32)).astype(np.float32) / 512
    body = [
        node("Constant", [], ["p"], value=numpy_helper.from_array(large)),
        node("Constant", [], ["q"], value=numpy_helper.from_array(back)),
        node("MatMul", ["f", "p"], ["h"]),
        node("MatMul", ["h", "q"], ["t"]),
    ]
    then = helper.make_graph(body, "then", [], [info("t", None)])
    other = helper.make_graph([node("Identity", ["f"], ["e"])], "else", [], [info("e", None)])
    last = head()
    last[0].input[0] = "ff"
    nodes = [
        *trunk(),
        node("ReduceSum", ["f"], ["total"], keepdims=0),
        node("Greater", ["total", "none"], ["yes"]),
        node("If", ["yes"], ["ff"], then_branch=then, else_branch=other),
        *last,
    ]
    return write(path, nodes, {**stored, "none": np.array(-1e9, np.float32)})


def test_steps_that_reach_next_to_none_refuse(tmp_path: Path) -> None:
    file = inside_a_branch(tmp_path / "given.onnx")
    artifact = prepare_onnx(
        ModelSettings(name="mine", file=str(file)), ("a", "b"), None,
        (TensorSpec("input", (None, 3, SIDE, SIDE)),), {"input": IMAGES[:1]}, tmp_path / "p", True,
    )  # fmt: skip
    assert count_work(artifact)["parameters"] == ALL + 2 * 32 * 512
    with pytest.raises(UnsupportedError, match=r"5,104 of 37,922 parameters \(13\.5%\)"):
        PruneOnnx().apply(artifact, data(), tmp_path)


def test_half_precision_file_is_refused_by_name(tmp_path: Path) -> None:
    stored = {k: v.astype(np.float16) for k, v in weights().items()}
    file = write(
        tmp_path / "given.onnx",
        [node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16), *trunk("xh"), *head("z"),
         node("Cast", ["z"], ["y"], to=TensorProto.FLOAT)],
        stored,
    )  # fmt: skip
    artifact = prepare_onnx(
        ModelSettings(name="mine", file=str(file)), ("a", "b"), None,
        (TensorSpec("input", (None, 3, SIDE, SIDE)),), {"input": IMAGES}, tmp_path / "p", True,
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="fp16: the model's weights are float16"):
        Fp16().apply(artifact, data(), tmp_path)


class Images:
    """Calibration images as ONNX Runtime's quantizer reads them."""

    def __init__(self) -> None:
        self.left = [IMAGES[i : i + 1] for i in range(len(IMAGES))]

    def get_next(self) -> dict[str, Any] | None:
        return {"x": self.left.pop()} if self.left else None


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_count_parameters_of_an_int8_file_is_that_of_its_float_file(
    form: str, tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    source, target = write(tmp_path / "f.onnx", trunk() + head()), tmp_path / "q.onnx"
    if form == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8, per_channel=True)
    else:
        quantize_static(
            source, target, Images(), quant_format=QuantFormat[form], per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    counted = count_parameters(onnx.load(target))
    assert counted.parameters == ALL
    assert counted.nonzero > 0.9 * ALL


@pytest.mark.parametrize("kind", ["listed", "constants"])
def test_int8_leaves_no_float_batch_normalization(kind: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    from pqbench.compress.onnx_ready import pre_process

    _, artifact = prepared(tmp_path, kind)
    assert pre_process(artifact.path, tmp_path / "ready.onnx", "ort_int8")
    reader = Images()
    reader.get_next = lambda: {"input": reader.left.pop()} if reader.left else None  # type: ignore[method-assign]
    quantize_static(tmp_path / "ready.onnx", tmp_path / "q.onnx", reader, per_channel=True,
                    weight_type=QuantType.QInt8)  # fmt: skip
    kinds = [n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 2
    assert kinds.count("DequantizeLinear") >= 6


def concat_of_shapes(path: Path) -> Path:
    """Reshape to (Shape[0:1] ++ rest), joined along axis -1, as paddle2onnx writes it."""
    nodes = trunk()
    nodes[5:] = [
        node("Shape", ["g"], ["s"]),
        node("Slice", ["s", "i0", "i1"], ["n"]),
        node("Concat", ["n", "rest"], ["t"], axis=-1),
        node("Reshape", ["g", "t"], ["f"]),
    ]
    ends = {"i0": np.array([0]), "i1": np.array([1]), "rest": np.array([32])}
    return write(path, nodes + head(), {**weights(), **ends})


def test_pre_process_falls_back_from_symbolic_shapes(tmp_path: Path) -> None:
    from pqbench.compress.onnx_ready import pre_process

    file = concat_of_shapes(tmp_path / "c.onnx")
    assert not pre_process(file, tmp_path / "ready.onnx", "ort_int8")
    np.testing.assert_allclose(
        run_plain(tmp_path / "ready.onnx", IMAGES)[0], run_plain(file, IMAGES)[0], atol=1e-4
    )


def test_tool_refusals_are_one_line_with_what_to_type() -> None:
    from pqbench.compress.onnx_ready import tool_refusals

    with (
        pytest.raises(UnsupportedError, match="cannot quantize this graph: ValueError: odd") as got,
        tool_refusals("ort_int8", "quantize_bias=false"),
    ):
        raise ValueError("odd\n  shape")
    assert "\n" not in str(got.value)
    with pytest.raises(UnsupportedError, match=r"^mine"), tool_refusals("ort_int8", ""):
        raise UnsupportedError("mine")
