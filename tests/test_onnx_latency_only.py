"""ONNX files of any kind from command to record: timed, compressed, outputs compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_files as files
import pytest
from onnx import TensorProto, helper
from onnx_files import SIDE, head, info, trunk, weights, write
from test_cli import pqbench
from test_tasks import QUICK, by_recipe_and_backend

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import DataError, UnsupportedError
from pqbench.data.npz import Npz
from pqbench.data.tensors import prepare_tensors as prepare_data
from pqbench.models.onnx.tensors import prepare_tensors, safe_name, sample_specs
from pqbench.models.settings import ModelSettings

node = helper.make_node


def detector(path: Path) -> Path:
    """Boxes and scores per position of a 24 x 40 image, and a second and third input."""
    stored = {**weights(), "wo": np.ones((6, 32, 1, 1), np.float32) / 32}
    stored |= {"whole": np.array([0, 6, -1]), "table": np.ones((10, 6), np.float32)}
    nodes = [
        *trunk("image/0:0")[:4],
        node("Conv", ["r2", "wo"], ["o"]),
        node("Reshape", ["o", "whole"], ["anchors"]),
        node("Gather", ["table", "tokens"], ["t"]),
        node("ReduceMean", ["t"], ["tm"], axes=[1], keepdims=0),
        node("Mul", ["tm", "scale"], ["second"]),
    ]
    return write(
        path,
        nodes,
        stored,
        [
            info("image/0:0", ["N", 3, 24, 40]),
            info("tokens", ["N", "length"], TensorProto.INT32),
            info("scale", ["N", 1]),
        ],
        [info("anchors", ["N", 6, "A"]), info("second", ["N", 6])],
    )


def save_inputs(path: Path, count: int = 8) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "image/0:0": rng.standard_normal((count, 3, 24, 40)).astype(np.float32),
        "tokens": rng.integers(0, 10, (count, 5)).astype(np.int64),  # the model takes int32
        "scale": rng.standard_normal((count, 1)).astype(np.float32),
    }
    np.savez(path, **arrays)
    return path


def test_detector_is_timed_compressed_and_compared(tmp_path: Path) -> None:
    file, data = detector(tmp_path / "d.onnx"), save_inputs(tmp_path / "x.npz")
    done = pqbench(
        tmp_path,
        "model=onnx",
        f"model.file={file}",
        "dataset=npz",
        f"dataset.root={data}",
        "compress=ort_int8",
        "compress.ort_int8.calibration_size=3",
        *QUICK,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = by_recipe_and_backend(tmp_path)
    base, int8 = records["none", "ort"], records["ort_int8", "ort"]
    assert base.experiment.task == int8.experiment.task == "none"
    assert base.latency
    assert base.accuracy is None
    assert "nothing is scored" in base.reasons["accuracy"]
    assert base.size.parameters == sum(v.size for k, v in weights().items() if k[1] in "12") + 252
    assert int8.size.file_ratio is not None
    assert int8.size.file_ratio < 0.7
    (found,) = [p for p in int8.parity if "against the baseline" in p["conversion"]]
    assert found["samples"] == 4
    assert set(found["outputs_sqnr_db"]) == {"anchors", "second"}
    assert 20 < found["outputs_sqnr_db"]["anchors"] < 80  # quantized; `second` has no weights
    assert any("signal to noise" in note for note in int8.notes)


def test_synthetic_inputs_follow_the_file(tmp_path: Path) -> None:
    specs, notes = sample_specs(detector(tmp_path / "d.onnx"), side=99)
    assert specs == (
        TensorSpec("image/0:0", (3, 24, 40)),
        TensorSpec("tokens", (64,), "int32"),
        TensorSpec("scale", (1,)),
    )
    assert notes == ["free sizes of a sample were taken as tokens (64)"]
    assert safe_name("image/0:0") == "image_0_0"


def state_file(path: Path) -> Path:
    """A recurrent step: its state has the batch on the second axis, its rate none at all."""
    nodes = [
        node("Mul", ["frame", "rate"], ["m"]),
        node("ReduceMean", ["m"], ["level"], axes=[1], keepdims=1),
        node("Add", ["state", "level"], ["next"]),
        node("NonZero", ["next"], ["where"]),
    ]
    return write(
        path,
        nodes,
        {},
        [info("frame", [None, 16]), info("state", [2, None, 4]), info("rate", [])],
        [info("level", [None, 1]), info("next", [2, None, 4]),
         info("where", [3, "k"], TensorProto.INT64)],
    )  # fmt: skip


def test_inputs_without_a_batch_are_one_call_each(tmp_path: Path) -> None:
    file = state_file(tmp_path / "s.onnx")
    rng = np.random.default_rng(0)
    frame = rng.standard_normal((6, 1, 16)).astype(np.float32)
    state = rng.standard_normal((6, 2, 1, 4)).astype(np.float32)
    state[1] = -frame[1].mean()  # so that the number of non-zero values varies
    rate = np.linspace(1, 2, 6, dtype=np.float32)
    rate[1] = 1
    np.savez(tmp_path / "x.npz", frame=frame, state=state, rate=rate)
    specs = (
        TensorSpec("frame", (1, 16)),
        TensorSpec("state", (2, 1, 4)),
        TensorSpec("rate", ()),
    )
    folder = tmp_path / "data"
    split = prepare_data(
        Npz(str(tmp_path / "x.npz")), "val", specs, [s.name for s in specs], folder
    )
    artifact = prepare_tensors(
        ModelSettings(name="s", file=str(file)),
        split.specs(),
        split.feed(slice(0, 3)),
        tmp_path / "model",
    )
    assert [spec.shape for spec in artifact.inputs] == [(1, 1, 16), (1, 2, 1, 4), (1,)]
    assert "level" in artifact.outputs
    assert "next" in artifact.outputs
    import onnxruntime as ort

    ours = ort.InferenceSession(str(artifact.path)).run(["next"], split.feed(slice(1, 2)))[0]
    plain = ort.InferenceSession(str(file))
    wanted = plain.run(
        ["next"], {"frame": frame[2], "state": state[2], "rate": rate[2:3].reshape(())}
    )[0]
    np.testing.assert_allclose(ours[0], wanted, rtol=1e-6)
    assert any("one sample is one call" in n for n in artifact.lineage[0].details["notes"])


def test_fixed_batch_with_time_first_is_taken_whole(tmp_path: Path) -> None:
    """Recognisers give (time, 1, classes): the first axis counts no samples."""
    file = write(
        tmp_path / "ctc.onnx",
        [node("Transpose", ["x"], ["y"], perm=[1, 0, 2])],
        {},
        [info("x", [1, 7, 4])],
        [info("y", [7, 1, 4])],
    )
    values = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    artifact = prepare_tensors(
        ModelSettings(name="ctc", file=str(file)),
        (TensorSpec("x", (None, 7, 4)),),
        {"x": values},
        tmp_path / "model",
    )
    assert artifact.inputs[0].shape == (1, 7, 4)
    got = files.run_plain(artifact.path, values)[0]
    np.testing.assert_allclose(got[:, :, 0], values)
    (note,) = artifact.lineage[0].details["notes"]
    assert "output y has no axis of samples" in note


def test_npz_that_does_not_fit_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        Npz(str(tmp_path / "nowhere.npz")).index()
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 2)), b=np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"arrays have \[3, 4\] rows"):
        Npz(str(tmp_path / "x.npz")).index()
    np.savez(tmp_path / "y.npz", a=np.zeros((4, 2)))
    with pytest.raises(DataError, match="no array 'x', it has a"):
        Npz(str(tmp_path / "y.npz")).tensors("val", [TensorSpec("x", (2,))])
    given = (TensorSpec("x", (None, 3, SIDE, 7)),)
    plain = write(tmp_path / "p.onnx", trunk() + head())
    with pytest.raises(UnsupportedError, match=r"\(3, 32, 32\), the data have float32 \(3, 32, 7"):
        prepare_tensors(ModelSettings(name="p", file=str(plain)), given, {}, tmp_path / "m")


def test_two_files_of_one_network_are_compared(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    class Images:
        left = 8

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            rng = np.random.default_rng(self.left)
            image = rng.standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
            return {"x": image} if self.left else None

    images = files.draw_images(tmp_path / "images", count=6)
    quantize_static(
        write(tmp_path / "float.onnx", trunk() + head()),
        tmp_path / "int8.onnx",
        Images(),
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    done = pqbench(
        tmp_path,
        "model=onnx",
        f"model.file={tmp_path / 'int8.onnx'}",
        f"model.baseline_file={tmp_path / 'float.onnx'}",
        f"model.preprocess.resize={SIDE}",
        f"model.preprocess.crop={SIDE}",
        "dataset=imagefolder",
        f"dataset.root={images}",
        *QUICK,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = by_recipe_and_backend(tmp_path)
    base, mine = records["none", "ort"], records["int8", "ort"]
    assert mine.baseline == base.fingerprint
    assert mine.speedup
    assert mine.size.parameters == base.size.parameters == 5154
    assert mine.size.file_ratio is not None
    assert mine.size.file_ratio < 0.8
    pixels, labels = files.read_images(images)
    for record, file in ((base, "float.onnx"), (mine, "int8.onnx")):
        got = files.run_plain(tmp_path / file, files.normalized(pixels))[0]
        assert record.accuracy is not None
        assert record.accuracy.top1 == pytest.approx(float(np.mean(got.argmax(axis=1) == labels)))
    assert mine.accuracy is not None
    assert mine.accuracy.against_baseline is not None
    assert onnx.load(tmp_path / "int8.onnx").graph.node
