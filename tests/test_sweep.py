"""A sweep knows its command, is run by one process at a time, and says how far it has got."""

from __future__ import annotations

from pathlib import Path

import pytest
from record_factory import make_failed, make_record

from pqbench.app.sweep_state import (
    LOCK,
    PROGRESS,
    Progress,
    Sweep,
    command_of,
    find_earlier,
    note_end,
    note_start,
    read_state,
)
from pqbench.core.errors import ConfigError, OutputError
from pqbench.core.record import Stage

COMMAND = ["model=a,b", "threads=1"]


def test_command_leaves_out_how_it_is_run() -> None:
    given = ["model=a", "retry=failed", "+force=true", "hydra.sweep.dir=x", "hydra.mode=MULTIRUN"]
    assert command_of(given) == ["model=a", "hydra.mode=MULTIRUN"]


def test_unfinished_sweep_of_the_same_command_is_found(tmp_path: Path) -> None:
    one = Sweep(tmp_path / "1", COMMAND, 2)
    assert find_earlier(tmp_path, COMMAND, finished_too=True) is None  # it runs
    one._lock.release()  # as the kernel does when its process dies
    assert find_earlier(tmp_path, COMMAND, finished_too=False) == tmp_path / "1"
    assert find_earlier(tmp_path, ["model=c"], finished_too=False) is None
    Sweep(tmp_path / "1", COMMAND, 2).finish()
    assert find_earlier(tmp_path, COMMAND, finished_too=False) is None
    assert find_earlier(tmp_path, COMMAND, finished_too=True) == tmp_path / "1"
    assert not (tmp_path / "1" / LOCK).exists()


def test_second_sweep_in_one_folder_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, COMMAND, 2)
    with pytest.raises(ConfigError, match="another process"):
        Sweep(tmp_path, COMMAND, 2)
    sweep.finish()
    Sweep(tmp_path, COMMAND, 2).finish()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        Sweep(tmp_path / "file" / "sweep", COMMAND, 2)


def test_damaged_state_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sweep.json").write_text('{"command": [')
    assert read_state(tmp_path / "one") is None
    assert find_earlier(tmp_path, COMMAND, finished_too=True) is None


def test_view_counts_and_names_the_fastest(tmp_path: Path) -> None:
    Sweep(tmp_path, COMMAND, 5)
    for job in ("0", "1", "2", "3"):
        note_start(tmp_path, job)
    note_end(tmp_path, "0", make_record("m", "ort", ("nncf_int8",), speedup=2.5, drop_pt=0.4))
    note_end(tmp_path, "1", make_record("m", "ort", ("ort_int8",), speedup=1.5))
    note_end(tmp_path, "2", make_failed())
    with (tmp_path / PROGRESS).open("a") as file:
        file.write('{"job": "4", "sta')
    text = Progress(tmp_path).view()
    for words in ("3 of 5 done", "1 without a result", "1 running", "2 left, about"):
        assert words in text
    assert "fastest m · nncf_int8 · ort (2.50x, drop 0.4 pt)" in text


def test_time_left_leaves_out_what_later_experiments_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = Sweep(tmp_path, COMMAND, 5).state.started
    note_start(tmp_path, "0")
    record = make_record("m", "ort")
    record.stages = [Stage("fit", 900, False), Stage("measure", 60, False)]
    record.stages.append(Stage("prepare_train", 500, True))  # found: took nothing
    note_end(tmp_path, "0", record)
    monkeypatch.setattr("pqbench.app.sweep_state.time.time", lambda: began + 960)
    assert Progress(tmp_path).view() == "1 of 5 done; 4 left, about 4 min"


def test_progress_reads_each_line_once_and_sees_a_sweep_begun_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, COMMAND, 3)
    progress = Progress(tmp_path)
    note_start(tmp_path, "0")
    assert progress.view() == "0 of 3 done; 1 running"
    lines = tmp_path / PROGRESS
    note_end(tmp_path, "0", make_record("m", "ort", ("ort_int8",), speedup=1.5))
    first = len(lines.read_bytes())
    with lines.open("ab") as file:
        file.write(b'{"job": "1", "status"')
    assert progress.view().startswith("1 of 3 done; 2 left")
    lines.write_bytes(b"x" * first + lines.read_bytes()[first:])  # is not read again
    with lines.open("ab") as file:
        file.write(b': "running", "at": 0}\n')
    assert progress.view().startswith("1 of 3 done; 1 running; 2 left")
    assert "fastest m" in progress.view()
    sweep.finish()
    Sweep(tmp_path, COMMAND, 3)
    note_start(tmp_path, "0")
    assert progress.view() == "0 of 3 done; 1 running"
