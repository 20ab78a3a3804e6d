"""A finished experiment is found again, whole, or not at all."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from record_factory import make_record

from pqbench.app.arguments import config_folder
from pqbench.cache import Cache
from pqbench.cache.sequence import next_number
from pqbench.core.errors import UnavailableError
from pqbench.core.record import FILE, Record
from pqbench.experiment import config as schema
from pqbench.experiment.reuse import FinishedRecords
from pqbench.experiment.run import ExperimentRun
from pqbench.report.load import load_records


@pytest.fixture
def record() -> Record:
    files = {"logits": "logits.npy", "model": "model"}
    return dataclasses.replace(make_record(), files=files, identity="0123")


def finished(tmp_path: Path, record: Record, name: str) -> FinishedRecords:
    return FinishedRecords(Cache(tmp_path / "cache"), tmp_path / name, record.fingerprint)


def measured(tmp_path: Path, record: Record) -> FinishedRecords:
    """An experiment that has just been measured and kept, its record not yet in its folder."""
    one = finished(tmp_path, record, "one")
    (one.folder / "model").mkdir(parents=True)
    (one.folder / "model" / "model.onnx").write_bytes(b"weights")
    (one.folder / "logits.npy").write_bytes(b"figures")
    one.keep(record)
    return one


def test_kept_record_is_found_with_its_files(tmp_path: Path, record: Record) -> None:
    assert measured(tmp_path, record).here() is None
    other = finished(tmp_path, record, "other")
    assert other.kept("0123") == record
    assert other.here() == record
    assert (other.folder / "model" / "model.onnx").read_bytes() == b"weights"
    assert other.kept("4567") is None


@pytest.mark.parametrize("name", ["logits.npy", "record.json", "model/model.onnx"])
def test_damaged_kept_record_is_not_found(tmp_path: Path, record: Record, name: str) -> None:
    one = measured(tmp_path, record)
    assert one.cache is not None
    [path] = one.cache.records.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    other = finished(tmp_path, record, "other")
    assert other.kept("0123") is None
    assert not (other.folder / FILE).exists()


def test_record_in_place_is_found_unless_it_is_cut_or_of_another_experiment(
    tmp_path: Path, record: Record
) -> None:
    one = measured(tmp_path, record)
    record.save(one.folder)
    assert one.here() == record
    assert FinishedRecords(None, one.folder, "another").here() is None
    (one.folder / "logits.npy").unlink()
    assert one.here() is None
    (one.folder / FILE).write_bytes((one.folder / FILE).read_bytes()[:100])
    assert one.here() is None


def test_cache_that_cannot_be_written_costs_no_result(
    tmp_path: Path, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    one = finished(tmp_path, record, "one")
    (tmp_path / "cache").write_text("a file is in the way")
    one.keep(record)
    assert "could not be kept" in caplog.text


def set_clock_back(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() - seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - seconds * 10**9)


def test_later_record_counts_where_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides=["tracking=none", f"outputs={tmp_path / 'out'}"])
    config = schema.read(composed)

    def gone(run: ExperimentRun, *_: object) -> None:
        raise UnavailableError(f"seen in {run.folder.name}")

    monkeypatch.setattr(ExperimentRun, "_plan", gone)
    first = ExperimentRun(config, tmp_path / "records" / "z_first").run()
    set_clock_back(monkeypatch, 86400)
    second = ExperimentRun(config, tmp_path / "records" / "a_second").run()
    assert datetime.fromisoformat(second.created) < datetime.fromisoformat(first.created)
    [counted] = load_records(tmp_path / "records")
    assert counted.error is not None
    assert counted.error.message == "seen in a_second"


def test_next_number_grows_whatever_the_clock_and_the_file_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [next_number(tmp_path) for _ in range(3)]
    set_clock_back(monkeypatch, 10**6)
    numbers += [next_number(tmp_path) for _ in range(3)]
    assert sorted(set(numbers)) == numbers
    (tmp_path / ".sequence").write_bytes(b"\xff no number")
    assert next_number(tmp_path) == pytest.approx(time.time_ns() // 10**6, abs=10**4)
    (tmp_path / "file").write_text("")
    assert next_number(tmp_path / "file" / "below") > 0  # cannot be made: the time alone


def test_record_of_before_there_were_sequences_counts_by_its_time() -> None:
    old, new = (make_record(created=f"2026-11-{day}T10:00:00+00:00") for day in (20, 21))
    later = dataclasses.replace(old, sequence=new.order + 1)
    assert old.order < new.order < later.order
