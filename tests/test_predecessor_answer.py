"""What a page begins with, and the table beside it, from records alone."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

import predecessors
from predecessor_answer import COLUMNS, answer, write_csv
from record_factory import make_failed, make_record

ROOT = Path(__file__).resolve().parents[1]


def test_answer_counts_unstable_cells_and_says_why_nothing_is_scored() -> None:
    base, pruned = make_record("net", "torch"), make_record("net", "torch", ("prune",), ms=3.0)
    pruned.latency[0].stable = False
    for record in (base, pruned):
        record.experiment.weights = "none"
        record.accuracy = None
        record.reasons["accuracy"] = "weights=none: random weights, nothing to score"
    text = "\n".join(answer([base, pruned, make_failed()], []))
    assert "2 of 3 cells have a result" in text
    assert "1 of 6 medians are unstable (17%)" in text
    assert "No accuracy and no F1: weights=none: random weights, nothing to score." in text
    assert "the same answer to every sample" not in text


def test_answer_takes_the_points_that_may_be_lost() -> None:
    records = [
        make_record("net", "ort", ms=8.0),
        make_record("net", "ort", ("ort_int8",), ms=4.0, speedup=2.0, drop_pt=1.5),
    ]
    strict, free = (answer(records, [], max_drop_pt=points)[0] for points in (1.0, 20.0))
    assert "to keep at most 1 point lost" in strict
    assert "to keep at most 20 points lost" in free


def test_page_of_several_data_sets_and_metrics_names_them() -> None:
    image, scene = make_record("net", "ort"), make_record("scene", "ort", dataset="camvid")
    assert scene.accuracy is not None
    scene.accuracy.metric, scene.accuracy.miou = "miou", 0.425
    table = predecessors.measured([image, scene])
    header = next(line for line in table if line.startswith("| model"))
    assert header.startswith("| model | data | backend | recipe |")
    assert "| top-1 % (mIoU of segmentation) |" in header
    row = next(line for line in table if line.startswith("| scene"))
    assert "| CamVid |" in row and "| 42.5 |" in row
    assert row.count("|") == header.count("|")
    assert "mIoU 42.5 to 42.5 %" in "\n".join(answer([image, scene], []))
    assert "| data |" not in "\n".join(predecessors.measured([image]))


def test_table_has_a_line_for_each_cell_and_batch_size(tmp_path: Path) -> None:
    records = [
        make_record("densenet121", "torch", ms=100.0),
        make_record("densenet121", "torch", ("prune_masked",), ms=104.0, speedup=0.96),
        make_failed(
            "densenet121", "torch", ("ort_int8",), status="unsupported", message="no\nmore"
        ),
    ]
    path = write_csv(records, tmp_path / "results" / "benchmark_results.csv")
    with path.open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert tuple(lines[0]) == COLUMNS
    assert [line["technique"] for line in lines] == [
        *["Baseline"] * 3,
        *["prune weights, masks kept"] * 3,
        "ORT INT8",
    ]
    assert [line["batch_size"] for line in lines] == ["1", "16", "64"] * 2 + [""]
    assert lines[3]["speedup"] == "0.960"
    assert lines[0]["macro_f1"] == "0.8900"
    assert (lines[-1]["status"], lines[-1]["reason"]) == ("unsupported", "no")
    assert lines[-1]["latency_ms"] == ""


def test_build_and_run_takes_its_steps_from_the_dockerfile(tmp_path: Path) -> None:
    """Without a container engine and without --local it says so and does nothing."""
    script = ROOT / "build_and_run.sh"
    steps = re.findall(r"^RUN pip install .*$", (ROOT / "Dockerfile").read_text(), re.M)
    assert [step for step in steps if "tensorrt" not in step] == [
        "RUN pip install -c constraints.txt -e '.[demo,gpu]' pytest pytest-timeout hypothesis"
    ]
    for name in ("dirname", "mkdir", "bash"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    copy = tmp_path / "project"
    copy.mkdir()
    (copy / script.name).write_text(script.read_text())
    done = subprocess.run(
        ["/usr/bin/bash", str(copy / script.name)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no container engine answers" in done.stderr
    assert "--local" in done.stderr
