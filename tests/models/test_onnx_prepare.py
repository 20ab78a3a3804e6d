"""A user's ONNX file: taken as it is where it fits, refused with a reason where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import UnsupportedError, WeightsError
from pqbench.export.reference import onnx_outputs, openvino_outputs
from pqbench.models.onnx.load import load_checked
from pqbench.models.onnx.prepare import prepare_onnx
from pqbench.models.settings import ModelSettings

SIDE = 8
SPECS = (TensorSpec("input", (None, 3, SIDE, SIDE)),)
IMAGES = {"input": np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE), np.float32)}


def write(
    path: Path,
    classes: int = 3,
    opset: int = 17,
    batch: int | str = "N",
    side: int = SIDE,
    name: str = "x",
    kind: int = TensorProto.FLOAT,
) -> Path:
    """Convolution, ReLU, mean over positions, product: a classifier in a few nodes."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "m": rng.standard_normal((4, classes)).astype(np.float32),
    }
    if kind != TensorProto.FLOAT:
        weights = {k: v.astype(np.float16) for k, v in weights.items()}
    nodes = [
        helper.make_node("Conv", [name, "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kind, [batch, 3, side, side])],
        [helper.make_tensor_value_info("scores", kind, [batch, classes])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 6
    onnx.save(model, path)
    return path


def run(file: Path, folder: Path, **change: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "classes": ("a", "b", "c"),
        "imagenet_indices": None,
        "input_specs": SPECS,
        "example": IMAGES,
    }
    return prepare_onnx(
        ModelSettings(name="mine", file=str(file)), folder=folder, **{**arguments, **change}
    )


def original(file: Path) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return np.asarray(session.run(None, {name: IMAGES["input"]})[0])


def test_prepare_onnx_takes_the_file_and_names_its_input(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.onnx")
    artifact = run(file, tmp_path / "out")
    assert (artifact.representation, artifact.inputs, artifact.outputs) == (
        "onnx",
        SPECS,
        ("scores",),
    )
    details = artifact.lineage[0].details
    assert (details["opset"], details["head"], details["renamed_inputs"]) == (
        17,
        "kept",
        {"x": "input"},
    )
    np.testing.assert_allclose(onnx_outputs(artifact, IMAGES)[0], original(file), atol=1e-6)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_prepare_onnx_raises_an_old_opset_only_for_recipes(opset: int, tmp_path: Path) -> None:
    file = write(tmp_path / "old.onnx", opset=opset)
    kept = run(file, tmp_path / "kept")
    assert onnx.load(kept.path).opset_import[0].version == opset
    raised = run(file, tmp_path / "raised", upgrade=True)
    assert onnx.load(raised.path).opset_import[0].version >= 13
    assert raised.lineage[0].details["raised_to_opset"] == 17
    np.testing.assert_allclose(onnx_outputs(raised, IMAGES)[0], original(file), atol=1e-6)


def test_prepare_onnx_cuts_an_imagenet_output(tmp_path: Path) -> None:
    file = write(tmp_path / "k.onnx", classes=1000)
    artifact = run(file, tmp_path / "out", imagenet_indices=(701, 0, 3))
    assert artifact.lineage[0].details["head"] == "sliced"
    wanted = original(file)[:, [701, 0, 3]]
    np.testing.assert_allclose(onnx_outputs(artifact, IMAGES)[0], wanted, atol=1e-6)
    with pytest.raises(UnsupportedError, match=r"\(\?, 1000\); the data set has 3 classes"):
        run(file, tmp_path / "other")


def test_prepare_onnx_with_a_fixed_batch_is_run_one_by_one(tmp_path: Path) -> None:
    artifact = run(write(tmp_path / "one.onnx", batch=1), tmp_path / "out")
    assert artifact.inputs[0].shape == (1, 3, SIDE, SIDE)
    free = run(write(tmp_path / "free.onnx"), tmp_path / "free")
    got = onnx_outputs(artifact, IMAGES)[0]
    np.testing.assert_allclose(got, onnx_outputs(free, IMAGES)[0], atol=1e-6)
    from pqbench.export.openvino_convert import convert_openvino

    converted = convert_openvino(artifact, tmp_path / "ov")
    np.testing.assert_allclose(got, openvino_outputs(converted, IMAGES)[0], atol=1e-5)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_load_checked_truncated_file_is_named(keep: float, tmp_path: Path) -> None:
    file = write(tmp_path / "cut.onnx")
    content = file.read_bytes()
    file.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(WeightsError, match=r"cut\.onnx is no valid ONNX model") as caught:
        load_checked(file)
    assert "\n" not in str(caught.value)


def test_load_checked_missing_or_other_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no ONNX file"):
        load_checked(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("hello, I am no model")
    with pytest.raises(WeightsError, match=r"text\.onnx is no valid"):
        load_checked(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 16}, r"float32 \(\?, 3, 16, 16\), the prepared data are float32 \(\?, 3, 8, 8\)"),
        ({"kind": TensorProto.FLOAT16}, "is float16"),
        ({"classes": 7}, "the data set has 3 classes"),
    ],
)
def test_prepare_onnx_that_does_not_fit_says_why(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        run(write(tmp_path / "other.onnx", **change), tmp_path / "out")


def test_prepare_onnx_with_other_inputs_names_both_sides(tmp_path: Path) -> None:
    texts = (TensorSpec("input_ids", (None, 4), "int64"), TensorSpec("length", (None,), "int64"))
    with pytest.raises(UnsupportedError, match="takes x, the prepared data have input_ids, length"):
        run(write(tmp_path / "mine.onnx"), tmp_path / "out", input_specs=texts)
