"""A user's ONNX classifier gets the accuracy that a plain ONNX Runtime script gives it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_files as files
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from onnx_files import SIDE, constants, head, info, normalized, trunk, weights, write

from pqbench.core.errors import ConfigError, PqbenchError, UnsupportedError, WeightsError
from pqbench.core.preprocess import PreprocessSettings
from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit, grey
from pqbench.core.task import SplitRequest
from pqbench.experiment import stages
from pqbench.measure.accuracy import score
from pqbench.measure.session_host import open_host
from pqbench.models.settings import GivenAs, ModelSettings

ORT = {"_target_": "pqbench.backends.ort.backend.OrtBackend", "threads": 1}
node = helper.make_node


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.draw_images(tmp_path_factory.mktemp("images"))


class Scored:
    """A file taken the way of an experiment: prepared, loaded by a backend, scored."""

    def __init__(self, folder: Path, file: Path, images: Path, **model: Any) -> None:
        preprocess = PreprocessSettings(
            resize=SIDE,
            crop=SIDE,
            mean=model.pop("mean", files.MEAN),
            std=model.pop("std", files.STD),
        )
        settings = ModelSettings(
            name="mine", representation=GivenAs.onnx, file=str(file), preprocess=preprocess, **model
        )
        request = SplitRequest(
            source={"_target_": "pqbench.data.folder.ImageFolder", "root": str(images)},
            split="val",
            scored="val",
            preprocess=preprocess,
            onnx_file=settings.onnx_file(),
        )
        for part in ("split", "model"):
            (folder / part).mkdir(parents=True)
        self.split_notes = stages.prepare_split(folder / "split", request.to_plain())["notes"]
        self.value = stages.prepare_model(
            folder / "model",
            asdict(settings),
            dataset_name="mine",
            scratch_ok=False,
            split=str(folder / "split"),
            imagenet_indices=None,
            seed=0,
        )
        self.folder = folder
        self.notes = [*self.split_notes, *self.value["notes"]]
        self.split = PreparedSplit.load(folder / "split")

    def score(self, batch: int = 1) -> Accuracy:
        host = open_host(
            ORT, str(self.folder / "model"), str(self.folder / "split"), [batch], 1.0, 0, True
        )
        out = self.folder / "logits.npy"
        assert host.predict(str(out), batch) == self.split.count
        host.close()
        from pqbench.core.artifact import Artifact

        kind = Artifact.load(self.folder / "model").lineage[0].details["scores"]
        return score(out, self.split, self.folder / "p.parquet", None, kind)

    def probabilities(self) -> np.ndarray:
        column = pq.read_table(self.folder / "p.parquet")["probability"]
        return np.asarray(column.to_numpy(zero_copy_only=False))


def plain_top1(file: Path, images: Path, output: str = "y") -> float:
    pixels, labels = files.read_images(images)
    (got,) = files.run_plain(file, normalized(pixels), outputs=[output])
    return float(np.mean(got.reshape(len(labels), -1).argmax(axis=1) == labels))


def variants(folder: Path) -> dict[str, Path]:
    """Files whose first output, flattened, holds the scores, whatever else they do."""
    w = weights()
    shape = {"zero": np.array(0, np.int64)}
    branch = [
        helper.make_graph([node("Identity", ["x"], ["t"])], "then", [], [info("t", None)]),
        helper.make_graph([node("Mul", ["x", "two"], ["e"])], "else", [], [info("e", None)]),
    ]
    inner = trunk()
    inner[0].output[0] = inner[1].input[0] = "input"
    found = {
        "plain": write(folder / "plain.onnx", trunk() + head()),
        "constants": write(folder / "constants.onnx", constants(w) + trunk() + head(), {}),
        "head_n_c_1_1": write(
            folder / "conv_head.onnx",
            [*trunk()[:4], node("Conv", ["r2", "w3"], ["c3"]),
             node("GlobalAveragePool", ["c3"], ["y"])],
            {**{k: w[k] for k in ("w1", "b1", "w2", "b2")}, "w3": w["wf"].T[:, :, None, None]},
            outputs=[info("y", ["N", 2, 1, 1])],
        ),
        "if_captures_the_input": write(
            folder / "if.onnx",
            [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
             node("Greater", ["n", "zero"], ["c"]),
             node("If", ["c"], ["xx"], then_branch=branch[0], else_branch=branch[1]),
             *trunk("xx"), *head()],
            {**w, **shape, "two": np.array(2, np.float32)},
        ),
        "inner_value_called_input": write(folder / "inner.onnx", inner + head()),
        "scalar_second": write(
            folder / "scalar.onnx",
            [*trunk(), *head(), node("ReduceMean", ["y"], ["m"], keepdims=0)],
            outputs=[info("y", ["N", 2]), info("m", [])],
        ),
        "sequence_second": write(
            folder / "sequence.onnx",
            [*trunk(), *head(), node("SplitToSequence", ["y"], ["ys"], axis=0)],
            outputs=[info("y", ["N", 2]),
                     helper.make_tensor_sequence_value_info("ys", TensorProto.FLOAT, None)],
        ),
    }  # fmt: skip
    for name, size in (("minus_one", -1), ("zero", 0)):
        model = onnx.load(found["plain"])
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].Clear()
            value.type.tensor_type.shape.dim[0].dim_value = size
        found[f"batch_of_{name}"] = folder / f"{name}.onnx"
        onnx.save(model, found[f"batch_of_{name}"])
    model = onnx.load(found["plain"])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    found["input_without_shape"] = folder / "unranked.onnx"
    onnx.save(model, found["input_without_shape"])
    model = onnx.load(found["plain"])
    model.graph.input.extend(info(k, list(v.shape)) for k, v in w.items())
    found["weights_as_inputs"] = folder / "listed.onnx"
    onnx.save(model, found["weights_as_inputs"])
    return found


SAME = ("batch_of_zero",)  # ONNX Runtime takes a size of 0 literally; the network is `plain`
VARIANTS = (
    "plain", "constants", "head_n_c_1_1", "if_captures_the_input", "inner_value_called_input",
    "scalar_second", "sequence_second", "batch_of_minus_one", "batch_of_zero",
    "input_without_shape", "weights_as_inputs",
)  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_top1_is_that_of_a_plain_script(name: str, images: Path, tmp_path: Path) -> None:
    found = variants(tmp_path)
    file = found[name]
    mine = Scored(tmp_path / "run", file, images)
    assert mine.score(batch=5).top1 == pytest.approx(
        plain_top1(found["plain"] if name in SAME else file, images)
    )


CASE_FILES = {
    "bn-training-mode/bn_training": "training_mode=1",
    "concat-axis-minus-one/concat_axis": "",
    "dim-minus-one/dim_minus1": "made free",
    "fixed-inside/fixed_inside": "runs at batch 1 alone",
    "fp16-weights/fp16_inside": "",
    "head-n-c-1-1/conv_head": "",
    "if-captures-input/if_capture": "",
    "second-output-without-batch/scalar_second": "output y is scored",
    "sequence-types/seq_output_second": "output y is scored",
    "softmax-twice/softmax": "",
    "weights-in-constant-nodes/const_weights_all": "Constant nodes made initializers",
    "weights-in-constant-nodes/const_weights_mixed": "Constant nodes made initializers",
    "wrong-advice/unranked": "",
}


@pytest.mark.parametrize("name", CASE_FILES)
def test_case_file_is_scored_as_onnxruntime_does(
    name: str, onnx_cases: Path, images: Path, tmp_path: Path
) -> None:
    file = onnx_cases / f"{name}.onnx"
    mine = Scored(tmp_path, file, images)
    assert mine.score().top1 == pytest.approx(plain_top1(file, images))
    assert CASE_FILES[name] in " ".join(mine.notes)
    pixels, _ = files.read_images(images)
    rows = files.run_plain(file, normalized(pixels), outputs=["y"])[0]
    rows = rows.reshape(len(pixels), -1).astype(np.float64)
    if "softmax" not in name:
        rows = np.exp(rows - rows.max(1, keepdims=True))
        rows /= rows.sum(1, keepdims=True)
    np.testing.assert_allclose(mine.probabilities(), rows.max(1), rtol=1e-3)


def test_softmax_at_the_end_is_not_applied_twice(images: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "s.onnx", [*trunk(), *head("z"), node("Softmax", ["z"], ["y"], axis=1)])
    mine = Scored(tmp_path / "run", file, images)
    mine.score()
    pixels, _ = files.read_images(images)
    wanted = files.run_plain(file, normalized(pixels))[0].max(axis=1)
    np.testing.assert_allclose(mine.probabilities(), wanted, rtol=1e-4)
    assert wanted.mean() > 0.75  # a second softmax of two classes cannot exceed 0.731


@pytest.mark.parametrize("names", [("features", "logits"), ("f1", "f2_prob")])
def test_scored_output_is_chosen_by_shape(
    names: tuple[str, str], images: Path, tmp_path: Path
) -> None:
    feature = node("Identity", ["f"], [names[0]])
    file = write(
        tmp_path / "two.onnx",
        [*trunk(), *head(names[1]), feature],
        outputs=[info(names[0], ["N", 32]), info(names[1], ["N", 2])],
    )
    mine = Scored(tmp_path / "run", file, images)
    assert mine.score().top1 == pytest.approx(plain_top1(file, images, names[1]))
    assert any(f"output {names[1]} is scored" in note for note in mine.notes)


def test_scored_output_of_two_alike_is_asked_for(images: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "two.onnx",
        [*trunk(), *head("left"), node("Neg", ["left"], ["right"])],
        outputs=[info("left", ["N", 2]), info("right", ["N", 2])],
    )
    with pytest.raises(UnsupportedError, match=r"model\.output=left"):
        Scored(tmp_path / "asked", file, images)
    mine = Scored(tmp_path / "run", file, images, output="right")
    assert mine.score().top1 == pytest.approx(plain_top1(file, images, "right"))
    with pytest.raises(ConfigError, match=r"model\.output=middle.*gives left, right"):
        Scored(tmp_path / "wrong", file, images, output="middle")


def test_argmax_at_the_end_is_scored_as_it_is(images: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "ids.onnx",
        [*trunk(), *head("z"), node("ArgMax", ["z"], ["y"], axis=1, keepdims=0)],
        outputs=[info("y", ["N"], TensorProto.INT64)],
    )
    mine = Scored(tmp_path / "run", file, images)
    pixels, labels = files.read_images(images)
    wanted = files.run_plain(file, normalized(pixels))[0]
    assert mine.score().top1 == pytest.approx(float(np.mean(wanted == labels)))
    assert np.isnan(mine.probabilities().astype(float)).all()


@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_number_is_the_second_class(sigmoid: bool, images: Path, tmp_path: Path) -> None:
    end = [node("Sigmoid", ["z"], ["y"])] if sigmoid else [node("Identity", ["z"], ["y"])]
    file = write(
        tmp_path / "one.onnx",
        [*trunk(), *head("z"), *end],
        weights(classes=1),
        outputs=[info("y", ["N", 1])],
    )
    mine = Scored(tmp_path / "run", file, images)
    pixels, labels = files.read_images(images)
    got = files.run_plain(file, normalized(pixels))[0][:, 0]
    second = got if sigmoid else 1 / (1 + np.exp(-got))
    assert mine.score().top1 == pytest.approx(float(np.mean((second > 0.5) == labels)))
    np.testing.assert_allclose(mine.probabilities(), np.maximum(second, 1 - second), rtol=1e-4)
    assert any("class 'b'" in note for note in mine.notes)


@pytest.mark.parametrize("form", ["nhwc", "uint8", "float64", "uint8_nhwc", "nhwc_free"])
def test_images_are_fed_as_the_file_takes_them(form: str, images: Path, tmp_path: Path) -> None:
    last = "nhwc" in form
    sizes = ["N", SIDE, SIDE, 3] if last else ["N", 3, SIDE, SIDE]
    sizes = ["N", "H", "W", "C"] if form == "nhwc_free" else sizes
    kind = TensorProto.UINT8 if "uint8" in form else TensorProto.FLOAT
    stored, nodes, source = weights(), [], "x"
    if form == "float64":
        kind = TensorProto.DOUBLE
    if kind != TensorProto.FLOAT:
        nodes.append(node("Cast", [source], ["as_float"], to=TensorProto.FLOAT))
        stored["w1"] /= 200 if kind == TensorProto.UINT8 else 1
        source = "as_float"
    if last:
        nodes.append(node("Transpose", [source], ["first"], perm=[0, 3, 1, 2]))
        source = "first"
    file = write(
        tmp_path / "form.onnx",
        [*nodes, *trunk(source), *head()],
        stored,
        [info("x", sizes, kind)],
    )
    pixels, labels = files.read_images(images)
    fed = pixels.transpose(0, 3, 1, 2) if "uint8" in form else normalized(pixels)
    fed = np.ascontiguousarray(fed.transpose(0, 2, 3, 1) if last else fed)
    fed = fed.astype(np.float64) if form == "float64" else fed
    got = files.run_plain(file, fed)[0]
    mine = Scored(tmp_path / "run", file, images)
    assert mine.score().top1 == pytest.approx(float(np.mean(got.argmax(axis=1) == labels)))
    assert any("is fed images" in note for note in mine.notes)


def test_one_channel_is_pillows_grey(images: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "grey.onnx",
        trunk() + head(),
        weights(channels=1),
        [info("x", ["N", 1, SIDE, SIDE])],
    )
    with pytest.raises(ConfigError, match="takes one channel") as caught:
        Scored(tmp_path / "asked", file, images)
    assert "model.preprocess.mean=[0.5]" in str(caught.value)
    mine = Scored(tmp_path / "run", file, images, mean=[0.5], std=[0.25])
    from PIL import Image

    pixels, labels = files.read_images(images)
    luma = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in pixels])
    np.testing.assert_array_equal(grey(pixels)[..., 0], luma)
    fed = ((luma[:, None] / 255 - 0.5) / 0.25).astype(np.float32)
    got = files.run_plain(file, fed)[0]
    assert mine.score().top1 == pytest.approx(float(np.mean(got.argmax(axis=1) == labels)))


def test_what_depends_on_the_batch_is_named(images: Path, tmp_path: Path) -> None:
    norm = node("BatchNormalization", ["c1", "s", "b1", "m", "v"], ["n", "m2", "v2"],
                training_mode=1)  # fmt: skip
    nodes = trunk()
    nodes[1].input[0] = "n"
    nodes.insert(1, norm)
    stats = {k: np.ones(16, np.float32) for k in ("s", "m", "v")}
    file = write(tmp_path / "bn.onnx", nodes + head(), {**weights(), **stats}, opset=15)
    mine = Scored(tmp_path / "run", file, images)
    assert any("BatchNormalization with training_mode=1" in note for note in mine.notes)
    plain = Scored(tmp_path / "other", write(tmp_path / "p.onnx", trunk() + head()), images)
    assert not any("depend on" in note or "run to run" in note for note in plain.notes)


@pytest.mark.parametrize("how", ["noise", "dropout"])
def test_what_changes_from_run_to_run_is_named(how: str, images: Path, tmp_path: Path) -> None:
    stored: dict[str, Any] = weights()
    if how == "noise":
        extra = [node("RandomNormalLike", ["g"], ["z"]), node("Add", ["g", "z"], ["gg"])]
    else:
        stored |= {"ratio": np.array(0.5, np.float32), "on": np.array(True)}
        extra = [node("Dropout", ["g", "ratio", "on"], ["gg"])]
    nodes = trunk()
    nodes[5].input[0] = "gg"
    file = write(tmp_path / "r.onnx", [*nodes[:5], *extra, nodes[5], *head()], stored)
    mine = Scored(tmp_path / "run", file, images)
    assert any("change from run to run" in note for note in mine.notes)


def test_batch_fixed_inside_is_found(images: Path, tmp_path: Path) -> None:
    nodes = trunk()
    nodes[5] = node("Reshape", ["g", "shape"], ["f"])
    stored = {**weights(), "shape": np.array([1, 32], np.int64)}
    file = write(tmp_path / "fixed.onnx", nodes + head(), stored)
    mine = Scored(tmp_path / "run", file, images)
    assert mine.score(batch=1).top1 == pytest.approx(plain_top1(file, images))
    assert any("runs at batch 1 alone" in note for note in mine.notes)


def several_inputs(path: Path) -> Path:
    """A gain per sample, a switch without an axis of samples, and sizes beside the images."""
    return write(
        path,
        [
            node("Where", ["training", "two", "one"], ["factor"]),
            node("Mul", ["x", "factor"], ["xx"]),
            *trunk("xx"),
            node("Cast", ["sizes"], ["s"], to=TensorProto.FLOAT),
            node("Concat", ["f", "gain", "s"], ["joined"], axis=1),
            node("Gemm", ["joined", "wj", "bf"], ["y"]),
        ],
        {
            **weights(),
            "wj": np.concatenate([weights()["wf"], [[3, -3], [0.02, 0], [0, 0.03]]]).astype("f4"),
            "one": np.array(1, np.float32),
            "two": np.array(2, np.float32),
        },
        [
            info("training", [], TensorProto.BOOL),
            info("gain", ["N", 1]),
            info("x", ["N", 3, SIDE, SIDE]),
            info("sizes", ["N", 2], TensorProto.INT64),
        ],
    )


def test_further_inputs_are_fed_what_the_user_says(images: Path, tmp_path: Path) -> None:
    file = several_inputs(tmp_path / "several.onnx")
    pixels, labels = files.read_images(images)
    count = len(pixels)
    got = run_several(file, normalized(pixels), count)
    constants = {"training": False, "gain": 1.5, "sizes": [30, 40]}
    mine = Scored(tmp_path / "run", file, images, constants=constants)
    assert mine.score(batch=5).top1 == pytest.approx(float(np.mean(got.argmax(axis=1) == labels)))
    exponents = np.exp(got - got.max(axis=1, keepdims=True))
    wanted = (exponents / exponents.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(mine.probabilities(), wanted, rtol=1e-3)
    assert any("training=False, gain=1.5, sizes=[30, 40]" in note for note in mine.notes)


def run_several(file: Path, x: np.ndarray, count: int) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {
        "training": np.array(False),
        "gain": np.full((count, 1), 1.5, np.float32),
        "x": x,
        "sizes": np.tile(np.array([[30, 40]]), (count, 1)),
    }
    return np.asarray(session.run(None, feed)[0])


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"gain": 1.5}, r"takes 3 inputs .*training bool.*constants=\{training:\.\.\., sizes"),
        ({"gian": 1.5}, r"model\.constants\.gian: .* takes training, gain, x, sizes"),
        ({"training": 0, "gain": "much", "sizes": [1, 2]}, r"constants\.gain=much"),
        ({"training": 0, "gain": 1, "sizes": [1, 2, 3]}, r"shape \(3,\), .* takes \(\?, 2\)"),
    ],
)
def test_constants_that_do_not_fit_are_named(
    constants: dict[str, Any], message: str, images: Path, tmp_path: Path
) -> None:
    file = several_inputs(tmp_path / "several.onnx")
    with pytest.raises(PqbenchError, match=message):
        Scored(tmp_path / "run", file, images, constants=constants)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("classes", [2, 1])
def test_axis_of_samples_lost_to_squeeze_is_put_back(
    batch: str | int, classes: int, images: Path, tmp_path: Path
) -> None:
    """``.squeeze()`` without a dimension: (1, 2) becomes (2,) and (1, 1) a scalar."""
    file = write(
        tmp_path / "squeezed.onnx",
        [*trunk(), *head("z"), node("Squeeze", ["z"], ["y"])],
        weights(classes=classes),
        [info("x", [batch, 3, SIDE, SIDE])],
        [info("y", None)],
    )
    import onnxruntime as ort

    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pixels, labels = files.read_images(images)
    rows = [session.run(None, {"x": x[None]})[0].reshape(-1) for x in normalized(pixels)]
    wanted = [row.argmax() if classes == 2 else row[0] > 0 for row in rows]
    mine = Scored(tmp_path / "run", file, images)
    assert mine.score().top1 == pytest.approx(float(np.mean(np.asarray(wanted) == labels)))
    said = " ".join(mine.notes)
    assert "put back" in said or "has no axis of samples" in said


def refused(folder: Path, kind: str) -> Path:
    plain = write(folder / "plain.onnx", trunk() + head())
    if kind == "detector":
        return write(
            folder / "d.onnx",
            [*trunk()[:4], node("Reshape", ["r2", "s"], ["y"])],
            {**weights(), "s": np.array([0, 32, -1], np.int64)},
            outputs=[info("y", ["N", 32, "anchors"])],
        )
    if kind == "sequence":
        return write(
            folder / "s.onnx",
            [node("SequenceAt", ["xs", "zero"], ["x"]), *trunk(), *head()],
            {**weights(), "zero": np.array(0, np.int64)},
            [helper.make_tensor_sequence_value_info("xs", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        )
    if kind == "two inputs":
        return write(
            folder / "two.onnx",
            [*trunk(), *head("z"), node("Mul", ["z", "gain"], ["y"])],
            inputs=[info("x", ["N", 3, SIDE, SIDE]), info("gain", ["N", 1])],
        )
    model = onnx.load(plain)
    if kind == "ir":
        model.ir_version = 99
    elif kind == "opset":
        model.opset_import[0].version = 99
    elif kind == "nan":
        for tensor in model.graph.initializer:
            if tensor.name == "bf":
                array = np.array([np.nan, 1], np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, "bf"))
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("detector/detector", r"no output holds one score per class: y \(\?, 2, 256\)"),
        ("sequence-types/seq_input", "input x is a sequence"),
        ("wrong-advice/ir99", r"IR version 99, the installed onnx .*m\.ir_version = 10"),
    ],
)
def test_case_file_is_refused_in_words(
    name: str, says: str, onnx_cases: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(PqbenchError, match=says) as caught:
        Scored(tmp_path, onnx_cases / f"{name}.onnx", images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        ("detector", UnsupportedError, "no output holds one score per class"),
        ("sequence", UnsupportedError, "is a sequence"),
        ("two inputs", UnsupportedError, r"takes 2 inputs.*'model\.constants=\{gain:\.\.\.\}'"),
        ("ir", WeightsError, "IR version 99.*m.ir_version = "),
        ("opset", PqbenchError, "opset"),
        ("nan", UnsupportedError, "not-a-number"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(
    kind: str, error: type[PqbenchError], says: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says) as caught:
        Scored(tmp_path / "run", refused(tmp_path, kind), images)
    assert "\n" not in str(caught.value)
