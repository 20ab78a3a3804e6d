"""A sweep that is killed, interrupted or cut off from its store ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import tiny_sweep as tiny

from pqbench.app.sweep_state import LOCK
from pqbench.core.record import Record
from pqbench.report.load import find_records

UNWEIGHED = "protocol.weigh=false"  # memory is no matter here
SWEEP = ["compress=none,round,crash", "backend=torch", UNWEIGHED, "-m"]
WAIT_S = 120


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while process.poll() is None and not ready():
        if time.monotonic() > end:
            process.kill()
            pytest.fail(process.communicate()[0])
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]


def records(folder: Path) -> dict[str, Record]:
    return {r.experiment.recipe_name: r for r, _ in find_records(folder / "outputs" / "sweeps")}


@pytest.mark.slow
def test_sweep_that_was_killed_twice_and_interrupted_loses_nothing_and_does_nothing_twice(
    tmp_path: Path,
) -> None:
    tiny.prepare(tmp_path)
    sweeps = tmp_path / "outputs" / "sweeps"
    process = tiny.start(tmp_path, *SWEEP)
    wait_for(process, lambda: any(sweeps.glob("*/0_*/logs/prepare_model.log")))
    process.kill()
    process.communicate()

    process = tiny.start(tmp_path, *SWEEP)
    wait_for(process, lambda: any(sweeps.glob("*/0_*/tracking.json")))
    process.kill()
    process.communicate()
    first = records(tmp_path)["none"]

    process = tiny.start(tmp_path, *SWEEP)
    wait_for(process, lambda: any(sweeps.glob("*/1_*/logs/round.log")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, output
    assert "stopping when this stage is done" in output
    assert "Traceback" not in output

    code, output = tiny.run(tmp_path, *SWEEP)
    assert code == 3, output  # the crash is a row
    assert "going on with" in output
    assert "found, measured" in output
    found = records(tmp_path)
    assert {name: r.status for name, r in found.items()} == {
        "none": "ok",
        "round": "ok",
        "crash": "crashed",
    }
    assert found["none"].created == first.created
    assert len(list(sweeps.iterdir())) == 1
    assert not list(sweeps.rglob(LOCK))
    assert not list((tmp_path / "outputs" / "cache").rglob("*.tmp"))
    with closing(sqlite3.connect(tmp_path / "outputs" / "mlflow.db")) as database:
        # One run of the sweep holds its report; the others are experiments.
        statuses = [
            status
            for (status,) in database.execute(
                "select status from runs where run_uuid not in "
                "(select run_uuid from tags where key = 'report_of')"
            )
        ]
    assert sorted(statuses) == ["FAILED", "FINISHED", "FINISHED"]

    (tmp_path / "conf" / "compress" / "crash.yaml").write_text(
        "# @package compress\ncrash: {_target_: user_steps.Round, digits: 1}\n"
    )
    code, output = tiny.run(tmp_path, *SWEEP, "retry=failed")
    assert code == 0, output
    again = records(tmp_path)
    assert again["crash"].ok
    assert again["round"].created == found["round"].created


@pytest.mark.slow
def test_limits_end_an_experiment_and_not_the_sweep(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    arguments = ["compress=none", "backend=torch", "tracking=none", "cache=false"]
    code, output = tiny.run(tmp_path, *arguments, "limits.cell_s=0.5", "-m")
    assert code == 3, output
    assert records(tmp_path)["none"].status == "timeout"
    code, output = tiny.run(tmp_path, *arguments, "limits.memory_mb=100", "-m")
    assert code == 3, output
    assert {r.status for r, _ in find_records(tmp_path / "outputs" / "sweeps")} == {
        "timeout",
        "oom",
    }


@pytest.mark.slow
def test_second_interrupt_stops_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    process = tiny.start(tmp_path, "compress=none,sleep", "backend=torch", "tracking=none", "-m")
    sweeps = tmp_path / "outputs" / "sweeps"
    wait_for(process, lambda: any(sweeps.glob("*/1_*/logs/sleep.log")))
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # to the whole group, as a terminal does
    with pytest.raises(subprocess.TimeoutExpired):  # the stage goes on
        process.wait(timeout=2)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, output
    assert output.count("stopping when this stage is done") == 1
    assert "the same command goes on from there" in output
    assert "Traceback" not in output
    assert not psutil.wait_procs(below, timeout=10)[1]
    assert records(tmp_path)["none"].ok
    assert not list((tmp_path / "outputs" / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_outputs_that_cannot_be_written_end_it_with_4_and_a_line(
    tmp_path: Path, sweep: list[str]
) -> None:
    tiny.prepare(tmp_path)
    (tmp_path / "file").write_text("in the way")
    code, output = tiny.run(tmp_path, "compress=none", "backend=torch", "outputs=file/x", *sweep)
    assert code == 4, output
    assert "cannot write to" in output
    assert "set outputs=" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_interrupt_while_the_first_stage_starts_lets_it_finish(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    process = tiny.start(tmp_path, "compress=none", "backend=torch", "tracking=none", "-m")

    def first_stage_starts() -> bool:
        return any((tmp_path / "outputs" / "cache" / "stages").glob("*.tmp"))

    wait_for(process, first_stage_starts)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    stages = tmp_path / "outputs" / "cache" / "stages"
    assert len(list(stages.glob("*/result.json"))) == 1, output


@pytest.mark.slow
def test_two_jobs_at_once_run_every_experiment_once(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="no pqbench[joblib]")
    tiny.prepare(tmp_path)
    jobs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "tracking=none", UNWEIGHED]
    code, output = tiny.run(tmp_path, "compress=none,round", "backend=torch", *jobs, "-m")
    assert code == 0, output
    assert "2 of 2 done" in output
    found = find_records(tmp_path / "outputs" / "sweeps")
    assert {r.experiment.recipe_name: r.status for r, _ in found} == {"none": "ok", "round": "ok"}
    measured = {r.created for r, _ in found if r.experiment.recipe_name == "none"}
    assert len(measured) == 1  # shared by the job that is itself and the one that compares
