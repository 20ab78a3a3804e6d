"""``pqbench.layers``: two records in, a table, a page and a verdict out."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from record_factory import make_failed, make_record
from torch import nn

from pqbench.app.arguments import config_folder
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.record import Record
from pqbench.experiment import config as schema
from pqbench.layers import main

SIDE = 32
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


class Noise(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"input": np.random.default_rng(0).random((4, 3, SIDE, SIDE), np.float32)}]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def save(record: Record, folder: Path) -> Path:
    entry = LineageEntry("source", 0.0)
    specs = (TensorSpec("input", (None, 3, SIDE, SIDE)),)
    Artifact("onnx", folder / "model", "model.onnx", specs, ("logits",), (entry,)).save()
    record.save(folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A baseline and its INT8 candidate on ONNX Runtime, side by side as in a sweep."""
    top = tmp_path_factory.mktemp("sweep")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip
    for name in ("0_none", "1_ort_int8"):
        (top / name / "model").mkdir(parents=True)
    given = top / "0_none" / "model" / "model.onnx"
    torch.onnx.export(
        network, (torch.rand(1, 3, SIDE, SIDE),), given, input_names=["input"],
        output_names=["logits"], dynamo=False, dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}},
    )  # fmt: skip
    quantize_static(given, top / "1_ort_int8" / "model" / "model.onnx", Noise(), per_channel=True)
    schema.register()
    overrides = [
        *("model=onnx", f"model.file={given}", "dataset=synthetic", "backend=ort", "threads=1"),
        *("model.task=classification", f"model.preprocess.resize={SIDE}"),
        f"model.preprocess.crop={SIDE}",
    ]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides=overrides)
    with open_dict(composed):
        composed.pop("hydra", None)
    config = schema.to_plain(schema.read(composed))
    base = replace(make_record(backend="ort"), config=config, files={"model": "model"})
    quick = replace(
        make_record(backend="ort", recipe=("ort_int8",)),
        config=config, files={"model": "model"}, baseline=base.fingerprint,
    )  # fmt: skip
    return save(base, top / "0_none"), save(quick, top / "1_ort_int8")


def test_layers_compares_a_record_with_its_baseline(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(pair[1]), "--starts", "3", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert code in (0, 1), said  # whether the sum agrees is the machine's matter
    assert "A call took" in said and "none · ort" in said and "ort_int8 · ort" in said
    rows = list(csv.DictReader((tmp_path / "out" / "layers.csv").open(encoding="utf-8")))
    kernels = {row["layer"]: row["ort_int8 · ort kernels"] for row in rows}
    assert {"0", "2", "6", "between the kernels"} <= set(kernels)
    assert "QLinearConv" in kernels["2"]
    shares = list(csv.DictReader((tmp_path / "out" / "operators.csv").open(encoding="utf-8")))
    assert [row["operator"] for row in shares][:2] == ["/0/Conv", "/1/Relu"]
    page = (tmp_path / "out" / "layers.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page and (tmp_path / "out" / "layers.png").stat().st_size


def test_layers_refuses_what_cannot_be_compared(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pair[0])]) == 2
    assert "is a baseline" in capsys.readouterr().err
    failed = make_failed()
    failed.save(tmp_path)
    assert main([str(pair[0]), str(tmp_path)]) == 2
    assert "has no model (unavailable)" in capsys.readouterr().err
    lonely = tmp_path / "lonely" / "run"
    lonely.mkdir(parents=True)
    record = Record.load(pair[1])
    record.baseline = "0" * 16
    record.save(lonely)
    assert main([str(lonely)]) == 2
    assert "name the baseline's record first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(pair[1]), "--starts", "2"])
