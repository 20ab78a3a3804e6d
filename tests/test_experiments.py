"""Each shipped experiment in a small form, from its command to its rows; pages from records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import predecessor_answer
import predecessors
import pytest
import tiny_sweep as tiny
from onnx_files import write_small
from record_factory import make_failed, make_record

from pqbench.core.record import Record
from pqbench.report.load import load_records

ROOT = Path(__file__).resolve().parents[1]

TINY = [*tiny.SHORT, "tracking=none"]
NOISE = ["dataset=synthetic", "dataset.limit=8", "dataset.train_limit=8", "model.weights=none"]
SMALL = {
    "models_images": [*tiny.FOLDER, "model=cnn", "compress=nncf_int8", "backend=openvino"],
    "models_text": [*NOISE, "model=lstm", "compress=torch_dynamic", "backend=torch"],
    "models_segmentation": [
        *NOISE,
        "model.preprocess.crop=32",
        "model.preprocess.resize=32",
        "compress=none",
        "backend=torch",
    ],
    "predecessor_onnx_file": [
        *tiny.FOLDER,
        "model.file=net.onnx",
        "model.preprocess.crop=32",
        "compress=[prune_onnx_channels,distill]",
        "compress.prune_onnx_channels.round_to=1",
        "compress.distill.epochs=1",
        "backend=ort",
    ],
    "predecessor_densenet": [
        *NOISE,
        "model.preprocess.crop=32",
        "model.preprocess.resize=32",
        "compress=prune_masked,torch_dynamic",
        "backend=torch",
        "protocol.weigh=false",
    ],
    "predecessor_techniques": [  # its weights come with pqbench: scored without training
        "dataset=mnist5k",
        "dataset.limit=50",
        "dataset.train_limit=20",
        "model=cnn",
        "compress=none,torch_dynamic",
        "backend=torch,torchscript,torch_cuda_fp16,torch_tensorrt,torch_tensorrt_int8,"
        "tensorrt_fp16",
    ],
    "predecessor_runtimes": [
        *tiny.FOLDER,
        "fit.epochs=1",
        "compress=none",
        "backend=ort,openvino,tensorrt_rtx",
    ],
    "scaling": [*NOISE, "model=cnn", "backend=ort", "threads=1,2"],
    "pruning_curves": [
        *NOISE,
        "compress.distill.epochs=1",
        "compress.prune.pruning_ratio=0.5",
        "compress.prune.criterion=taylor",
    ],
    "prune_and_int8": [*NOISE, "model=cnn", "compress=[prune_half,finetune,ort_int8]"],
    "iterative_prune": [
        *NOISE,
        "model=cnn",
        "backend=ort",
        *(f"compress.{step}.epochs=1" for step in ("finetune", "finetune_2", "finetune_3")),
        "hydra.mode=MULTIRUN",
    ],
    "runtimes": [
        *NOISE,
        "model=cnn",
        "compress=none,ort_int8",
        "backend=ort,openvino",
    ],
    "headline": [*NOISE, "model=cnn", "compress=ort_int8", "backend=ort"],
    "demo": [*NOISE, "model=cnn", "compress=none", "backend=torch"],
    "thesis_small": [
        *NOISE,
        "dataset.split=val",
        "model=resnet20_64",
        "compress=ort_int8",
        "backend=ort",
    ],
}
SHIPPED = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
GPU = ("torch_cuda_fp16", "torch_tensorrt", "tensorrt_fp16", "tensorrt_rtx")


@pytest.mark.parametrize("name", sorted(SMALL))
def test_experiment_runs_in_a_small_form(name: str, tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    write_small(tmp_path / "net.onnx")
    given = [*SMALL[name], *(a for a in TINY if name != "scaling" or not a.startswith("threads="))]
    command = [sys.executable, "-m", "pqbench", f"experiment={name}", *given]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    records = load_records(tmp_path / "outputs" / "sweeps")
    assert records, done.stdout + done.stderr
    if name == "predecessor_techniques":
        check_techniques(records)
        records = [r for r in records if r.is_baseline and "int8" not in r.experiment.backend]
    for record in records:
        gpu = record.experiment.backend in GPU
        assert record.status in (("ok", "unavailable") if gpu else ("ok",)), record.error
    if name == "pruning_curves":
        pruned = [r for r in records if not r.is_baseline]
        assert len(pruned) == 1
        for record in pruned:
            details = record.lineage[1]["details"]
            assert 0.5 <= details["macs_reduction"] < 0.8
    if name == "predecessor_onnx_file":
        [pruned] = [r for r in records if not r.is_baseline]
        actions = {entry["action"]: entry["details"] for entry in pruned.lineage}
        assert actions["distill"]["file_sqnr_db"] > 90
        details = actions["prune_onnx_channels"]
        assert details["channels_kept"] < details["channels"]
        assert details["parameters_after"] < 0.85 * details["parameters_before"]
    if name == "predecessor_densenet":
        ratio = {"+".join(r.experiment.recipe): r.size.file_ratio for r in records}
        assert ratio["prune_masked"] > 1.8  # the masks lie beside the weights
        assert 0.8 < ratio["torch_dynamic"] < 1  # one layer of 121
    if name == "scaling":
        assert "more buys nothing" in " ".join(done.stdout.split())
    if name == "predecessor_runtimes":
        assert len([r for r in records if r.accuracy]) == 2
        assert len({r.accuracy.top1 for r in records if r.accuracy}) == 1


def check_techniques(records: list[Record]) -> None:
    """Every cell is scored with F1, or says why not."""
    cells = {(r.experiment.backend, "+".join(r.experiment.recipe)): r for r in records}
    assert len(cells) == 12
    for (backend, recipe), record in cells.items():
        if record.ok:
            assert record.accuracy is not None and record.memory.rss_peak_mb, (backend, recipe)
            assert record.accuracy.top1 > 0.9 and record.accuracy.macro_f1 > 0.9
        else:
            assert record.error is not None and record.error.message, (backend, recipe)
    why = cells["torch_tensorrt_int8", ""].error
    assert why is not None and "ModelOpt" in why.message
    integer = cells["torch", "torch_dynamic"]
    assert integer.ok and integer.placement is not None
    assert integer.placement.integer == 1  # the head; convolutions stay in float
    onnx_alone = cells["tensorrt_fp16", "torch_dynamic"]
    assert onnx_alone.status == "unsupported" and "no form in ONNX" in str(onnx_alone.error)


def test_every_shipped_experiment_has_a_small_form() -> None:
    assert set(SMALL) == SHIPPED - {"thesis"}  # thesis_small is its small form


def test_page_gets_its_figures_from_records_alone(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for index, record in enumerate(
        (
            make_record("net", "ort", ms=8.0),
            make_record("net", "ort", ("ort_int8",), ms=4.0, speedup=2.04, drop_pt=0.37),
            make_failed(),
        )
    ):
        (sweep / str(index)).mkdir(parents=True)
        record.save(sweep / str(index))
    page = tmp_path / "runtimes.md"
    page.write_text(
        f"before\n{predecessor_answer.ANSWER_BEGIN}\n> Not renewed\n"
        f"{predecessor_answer.ANSWER_END}\n"
        f"{predecessors.BEGIN}\nold 99.9\n{predecessors.END}\nafter\n"
    )
    assert predecessors.make("runtimes", [sweep], tmp_path) == page
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "99.9" not in text
    assert "Not renewed" not in text
    above, _, below = text.partition(predecessors.BEGIN)
    assert "**net on ELPV. Stay with FP32 on ONNX Runtime: nothing that was tried is" in above
    assert "- Also tried: ort_int8 on ONNX Runtime: loss undecided" in above
    assert "MobileNetV3" not in above  # none of its cells has a result
    assert "on Example CPU @ 2.10GHz, 2 threads, pqbench at commit 0123456789" in above
    assert "2 of 3 cells have a result" in above
    assert "0 of 6 medians are unstable (0%)" in above
    assert "2 of 2 were scored, on 525 samples: top-1 91.0 to 91.0 %, macro F1 0.890" in above
    assert "| net | ort | ort_int8 |" in below
    assert "| net | ort | ort_int8 |" in text
    assert "2.04 [" in text
    assert "0.4 [" in text
    assert "### Cells without a result" in text
    assert (tmp_path / "runtimes.png").is_file()
    again = page.read_text()
    predecessors.make("runtimes", [sweep], tmp_path)
    assert page.read_text() == again
    assert "### Settings" not in again
    thesis = tmp_path / "thesis.md"
    thesis.write_text(page.read_text())
    predecessors.make("thesis", [sweep], tmp_path)
    assert "| step | setting | value |" in thesis.read_text()
    assert "@" in (tmp_path / "thesis.bib").read_text()


def test_page_without_results_or_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    with pytest.raises(ValueError, match="none of these records"):
        predecessors.make("runtimes", [tmp_path / "sweep"], tmp_path)
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ValueError, match="has no"):
        predecessors.put(tmp_path / "page.md", ["x"])


def test_masks_are_what_makes_a_pruned_densenet_larger() -> None:
    sizes = [
        float(line.split("|")[2]) for line in predecessors.densenet_masks() if line[-3:-2].isdigit()
    ]
    plain, masked, removed, half = sizes
    assert masked > 1.8 * plain
    assert removed == pytest.approx(plain, rel=0.01)
    assert half == pytest.approx(plain / 2, rel=0.02)
