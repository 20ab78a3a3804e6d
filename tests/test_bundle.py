"""What is taken away runs without pqbench, says that it is as measured, and notices what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from record_factory import make_record

from pqbench.app.arguments import config_folder
from pqbench.bundle import bundle, main
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.record import Record
from pqbench.core.task import SplitRequest
from pqbench.experiment import config as schema
from pqbench.experiment.tasks import get_task

SIDE = 24


def images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def model(folder: Path) -> Artifact:
    folder.mkdir()
    weight = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, folder / "model.onnx")
    specs = (TensorSpec("input", (None, 3, SIDE, SIDE)),)
    entry = LineageEntry("source", 0.0)
    artifact = Artifact("onnx", folder, "model.onnx", specs, ("logits",), (entry,))
    artifact.save()
    return artifact


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """A record with its model and outputs, as an experiment leaves them."""
    import onnxruntime as ort

    top = tmp_path_factory.mktemp("measured")
    images(top / "data")
    schema.register()
    overrides = [
        *("model=onnx", f"model.file={top / 'given.onnx'}", "dataset=imagefolder"),
        *(f"dataset.root={top / 'data'}", "backend=ort", "threads=1"),
        *(f"model.preprocess.resize={SIDE}", f"model.preprocess.crop={SIDE}"),
    ]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides=overrides)
    with open_dict(composed):
        composed.pop("hydra", None)
    config = schema.read(composed)
    folder = top / "run"
    folder.mkdir()
    artifact = model(folder / "model")
    request = SplitRequest(
        config.dataset.source, "val", "val", preprocess=config.model.preprocess, threads=1
    )
    split = get_task("classification").prepare(request, top / "split")
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    feed = split.feed(np.arange(split.count))
    np.save(folder / "logits.npy", session.run(None, feed)[0])
    made = make_record(backend="ort", batches=(1,))
    made = replace(
        made,
        config=schema.to_plain(config),
        files={"model": "model", "logits": "logits.npy"},
        environment={**made.environment, "libraries": {"onnxruntime": ort.__version__}},
    )
    return made, folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without pqbench: isolated, from another folder."""
    return subprocess.run(
        [sys.executable, "-I", str(folder / "run.py"), "--seconds", "0.1", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def test_bundle_runs_alone_and_is_as_measured(
    measured: tuple[Record, Path], tmp_path: Path
) -> None:
    bundle(*measured, tmp_path / "out")
    done = run(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 inputs, preprocessing, outputs, files and versions agree" in done.stdout
    assert "ms a call at batch 1" in done.stdout
    assert "pqbench" not in (tmp_path / "out" / "run.py").read_text().replace("no pqbench", "")
    assert len(list((tmp_path / "out" / "inputs").iterdir())) == 8
    said = run(tmp_path / "out", str(tmp_path / "out" / "inputs" / "0.png"))
    assert said.returncode == 0
    assert "cat" in said.stdout
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "onnxruntime" in card
    assert "points" in card or "top-1" in card


def wrong_preprocessing(folder: Path) -> str:
    path = folder / "preprocess.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "interpolation": "bicubic"}))
    return "preprocessing gives other pixels"


def wrong_version(folder: Path) -> str:
    path = folder / "bundle.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "version": "1.0.0"}))
    return "was measured with 1.0.0"


def wrong_model(folder: Path) -> str:
    path = folder / "model" / "model.onnx"
    given = onnx.load(path)
    weight = numpy_helper.to_array(given.graph.initializer[0])
    given.graph.initializer[0].CopyFrom(numpy_helper.from_array(-weight, "w"))
    onnx.save(given, path)
    return "outputs differ from those that were measured"


@pytest.mark.parametrize("spoil", [wrong_preprocessing, wrong_version, wrong_model])
def test_bundle_notices_what_is_not_as_measured(
    spoil, measured: tuple[Record, Path], tmp_path: Path
) -> None:
    bundle(*measured, tmp_path / "out")
    words = spoil(tmp_path / "out")
    done = run(tmp_path / "out")
    assert done.returncode == 1
    assert words in done.stdout


def test_bundle_refuses_a_folder_in_use_and_a_record_without_a_result(
    measured: tuple[Record, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, folder = measured
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="in use"):
        bundle(record, folder, tmp_path)
    compiled = {**record.config, "backend": {**record.config["backend"], "device": "cuda:0"}}
    with pytest.raises(UnsupportedError, match="on the CPU"):
        bundle(replace(record, config=compiled), folder, tmp_path / "out")
    with pytest.raises(DataError, match="no outputs"):
        bundle(replace(record, files={"model": "model"}), folder, tmp_path / "out")
    assert main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "pqbench:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
