"""What a page begins with, and the table beside it, from records alone."""

from __future__ import annotations

import csv
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import predecessors
from predecessor_answer import COLUMNS, answer, write_csv
from predecessors import paired_lines
from record_factory import make_failed, make_record

from pqbench.core.record import Pairing

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
    memory = [line["memory_mb"] for line in lines[:3]]  # measured at the smallest batch size alone
    assert memory[0] and memory[1:] == ["", ""]
    assert all(line[field] for line in lines for field in ("data", "protocol", "cpu", "commit"))


def test_build_and_run_keeps_each_run_apart_and_names_its_commit(tmp_path: Path) -> None:
    """A stand-in for docker notes what it is asked; earlier cells may not join the table."""
    project = tmp_path / "project"
    project.mkdir()
    script = project / "build_and_run.sh"
    script.write_text((ROOT / "build_and_run.sh").read_text())
    engine = tmp_path / "docker"
    engine.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> "{tmp_path}/asked"\n')
    engine.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True, env=env)
    (project / ".gitignore").write_text("outputs\nresults\ndata\n")
    subprocess.run([*git, "add", "."], check=True, env=env)
    subprocess.run([*git, "commit", "-qm", "first"], check=True, env=env)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, env=env, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["/usr/bin/bash", str(script)], check=True, env=env)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert f"COMMIT={commit} ." in asked[1]
    swept = re.search(r"hydra.sweep.dir=(\S+)", asked[2])
    assert swept and re.search(r"build_and_run_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$", swept[1])
    assert f"{swept[1]} results/" in asked[3]
    script.write_text(script.read_text() + "# changed\n")
    subprocess.run(["/usr/bin/bash", str(script)], check=True, env=env)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "COMMIT= ." in asked[5]


def test_pairings_stand_below_the_table() -> None:
    plain = make_record("cnn", "torch", ms=4.0)
    fast = make_record("cnn", "ort", ms=1.0)
    pairing = Pairing(
        fast.fingerprint, plain.fingerprint, [],
        [replace(make_record("cnn", "ort", ("fp16",)).speedup[0], ratio=3.5, low=3.25, high=3.75)],
    )  # fmt: skip
    lines = paired_lines([plain, fast], [pairing])
    assert lines[-2] == "| cnn | ort | baseline | torch | 3.50 [3.25, 3.75] |"
    assert paired_lines([plain], [pairing]) == []


def test_build_and_run_takes_its_steps_from_the_dockerfile(tmp_path: Path) -> None:
    """Without a container engine and without --local it says so and does nothing."""
    script = ROOT / "build_and_run.sh"
    steps = re.findall(r"^RUN pip install .*$", (ROOT / "Dockerfile").read_text(), re.M)
    assert [step for step in steps if "tensorrt" not in step] == [
        "RUN pip install -c constraints.txt -e '.[demo,gpu]' pytest pytest-timeout hypothesis"
    ]
    assert all("-c constraints.txt" in step for step in steps)
    for name in ("dirname", "mkdir", "date", "bash"):
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
