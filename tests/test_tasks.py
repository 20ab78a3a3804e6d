"""Tasks other than images' classes, ONNX files and one's own networks, from command to record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import HERE, pqbench
from tiny_sweep import SHORT

from pqbench.core.errors import ConfigError
from pqbench.core.record import Record
from pqbench.experiment.tasks import TASKS, get_task
from pqbench.report.load import load_records

QUICK = ["protocol=quick", *SHORT, "tracking=none"]


def by_recipe_and_backend(folder: Path) -> dict[tuple[str, str], Record]:
    records = load_records(folder / "outputs")
    return {(r.experiment.recipe_name, r.experiment.backend): r for r in records}


def test_get_task_knows_its_names_and_refuses_others() -> None:
    assert {get_task(name).metric for name in TASKS} == {"top1", "miou", "none"}
    assert get_task("pqbench.experiment.tasks.Segmentation").metric == "miou"
    with pytest.raises(ConfigError, match="juggling"):
        get_task("juggling.Clubs")


def test_text_runs_with_several_inputs_on_each_backend(tmp_path: Path) -> None:
    good, bad = ("fine", "lovely", "bright"), ("dull", "dreary", "bleak")
    rng = np.random.default_rng(0)
    lines = ["text\tlabel"]
    for i in range(160):
        words = rng.choice(good if i % 2 else bad, 1 + i % 5)
        lines.append(f"{' '.join(words)} film number {i}\t{i % 2}")
    (tmp_path / "all.tsv").write_text("\n".join(lines))
    done = pqbench(
        tmp_path,
        "model=lstm",
        "model.tokenizer.vocabulary=60",
        "model.tokenizer.max_length=12",
        "model.network.hidden=16",
        "dataset=textfile",
        "dataset.root=all.tsv",
        "fit.epochs=6",
        "fit.learning_rate=0.02",
        "backend=torch,ort,openvino",
        *QUICK,
        "-m",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = by_recipe_and_backend(tmp_path)
    for backend in ("torch", "ort", "openvino"):
        record = found["none", backend]
        assert record.experiment.task == "text_classification"
        assert record.accuracy is not None
        assert (record.accuracy.count, record.accuracy.metric) == (40, "top1")
        assert record.accuracy.top1 > 0.9  # one word tells
        assert record.size.macs is not None


def test_segmentation_is_trained_quantized_and_scored(tmp_path: Path) -> None:
    done = pqbench(
        tmp_path,
        "model=custom",
        "model.task=segmentation",
        "model.network._target_=user_networks.TinySegmenter",
        "model.head=head",
        "model.preprocess.resize=24",
        "model.preprocess.crop=24",
        "dataset=synthetic",
        "dataset.scored=true",
        "dataset.source.classes=3",
        "dataset.source.count=16",
        "fit.epochs=1",
        "fit.batch_size=8",
        "compress=nncf_int8",
        "compress.nncf_int8.calibration_size=8",
        "backend=openvino",
        *QUICK,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = by_recipe_and_backend(tmp_path)["nncf_int8", "openvino"]
    accuracy = record.accuracy
    assert accuracy is not None
    assert accuracy.metric == "miou"
    assert accuracy.miou is not None
    assert 0 < accuracy.miou < 0.7  # noise: there is nothing to learn
    assert accuracy.against_baseline is not None
    assert accuracy.against_baseline.agreement > 0.8
    assert record.lineage[1]["action"] == "fit"
    assert all(p["passed"] for p in record.parity)


def export(path: Path, fixed: bool) -> None:
    """A CIFAR-class network in ONNX, by the exporter that most files in the world came from."""
    from pqbench.models.cnn import Cnn

    torch.manual_seed(0)
    network = Cnn(num_classes=10, width=8).eval()
    axes = {} if fixed else {"dynamic_axes": {"image": {0: "n"}, "scores": {0: "n"}}}
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 32, 32),),
        path,
        input_names=["image"],
        output_names=["scores"],
        opset_version=12,
        dynamo=False,
        **axes,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_file_is_quantized_and_torch_only_steps_refuse_it(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    export(tmp_path / "mine.onnx", fixed=False)
    done = pqbench(
        tmp_path,
        "model=onnx",
        "model.file=mine.onnx",
        "model.preprocess.resize=32",
        "model.preprocess.crop=32",
        "dataset=mnist5k",
        "dataset.limit=50",
        "dataset.train_limit=50",
        "compress=ort_int8,prune",
        "backend=ort,torch",
        *QUICK,
        "-m",
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    found = by_recipe_and_backend(tmp_path)
    good = found["ort_int8", "ort"]
    assert good.ok, good.error
    assert good.lineage[0]["details"]["raised_to_opset"] == 17
    assert good.reasons["size.macs"].startswith("the model was given as ONNX")
    assert good.size.parameters is not None
    assert found["none", "ort"].lineage[0]["details"]["raised_to_opset"] is None
    for key, words in (
        (("prune", "ort"), "prune works on torch models, but the model is given as onnx"),
        (("ort_int8", "torch"), "loads torch"),
        (("none", "torch"), "backend 'torch' loads torch"),
    ):
        error = found[key].error
        assert found[key].status == "unsupported"
        assert error is not None
        assert words in error.message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_file_with_a_fixed_batch_is_measured_only_at_it(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    export(tmp_path / "one.onnx", fixed=True)
    common = [
        "model=onnx",
        "model.file=one.onnx",
        "model.preprocess.resize=32",
        "model.preprocess.crop=32",
        "dataset=mnist5k",
        "dataset.limit=20",
        "dataset.train_limit=30",
        "backend=openvino",
        *QUICK,
    ]
    done = pqbench(tmp_path, *common, "protocol.batch_sizes=[1,4]")
    assert done.returncode != 0
    assert (
        "one.onnx" in done.stdout + done.stderr or "batch fixed to 1" in done.stdout + done.stderr
    )
    [record] = load_records(tmp_path / "outputs")
    assert record.error is not None
    assert "has its batch fixed to 1" in record.error.message
    assert "protocol.batch_sizes=[1]" in record.error.hint
    done = pqbench(tmp_path, *common, "compress=nncf_int8")
    assert done.returncode == 0, done.stdout + done.stderr
    good = by_recipe_and_backend(tmp_path)["nncf_int8", "openvino"]
    assert good.ok
    assert [latency.batch_size for latency in good.latency] == [1]


def test_own_network_of_the_documentation_runs(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    example = HERE.parent / "docs" / "examples" / "custom_model"
    for name in ("leaf_net.py", "conf/model/leaf.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((example / name).read_text())
    done = pqbench(
        tmp_path,
        "--config-dir",
        "conf",
        "model=leaf",
        "dataset=mnist5k",
        "dataset.limit=100",
        "dataset.train_limit=2000",
        "fit.epochs=6",
        "fit.learning_rate=0.01",
        "backend=ort",
        *QUICK,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = by_recipe_and_backend(tmp_path)["none", "ort"]
    assert record.experiment.weights == "scratch"
    assert record.accuracy is not None
    assert record.accuracy.top1 > 0.35  # ten classes: it has learnt; guessing gives 0.1


def test_model_without_its_network_or_file_says_what_is_missing(tmp_path: Path) -> None:
    for arguments, words in (
        (["model=custom"], "model.network._target_"),
        (["model=onnx"], "model.file"),
        (["model=lstm", "dataset=elpv"], "text_classification"),
    ):
        done = pqbench(tmp_path, *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
