"""A finished experiment is found again, whole, or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from record_factory import make_record

from pqbench.cache import Cache
from pqbench.core.record import FILE, Record
from pqbench.experiment.reuse import FinishedRecords


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
