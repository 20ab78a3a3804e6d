"""A finished experiment comes back from MLflow with its files, or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from record_factory import make_failed, make_record

from pqbench.core.record import FILE, Record
from pqbench.tracking.fetch import fetch
from pqbench.tracking.push import push
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import ensure_store, opened


@pytest.fixture
def settings(empty_store: Path, tmp_path: Path) -> TrackingSettings:
    shutil.copytree(empty_store, tmp_path / "outputs")
    found = TrackingSettings(outputs=str(tmp_path / "outputs"), log_model=False)
    ensure_store(found)
    return found


def save(record: Record, folder: Path) -> Record:
    record = dataclasses.replace(
        record, identity="0123", files={"logits": "logits.npy", "model": "model"}
    )
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(b"weights")
    (folder / "logits.npy").write_bytes(b"figures")
    if record.ok:
        record.hash_files(folder)
    record.save(folder)
    return record


def test_pushed_record_is_found_by_fingerprint_and_identity(
    tmp_path: Path, settings: TrackingSettings
) -> None:
    record = save(make_record(), tmp_path / "one")
    assert fetch(settings, record.fingerprint, "0123", tmp_path / "two") is None
    push(record, tmp_path / "one", settings, "sweep")
    found = fetch(settings, record.fingerprint, "0123", tmp_path / "two")
    assert found is not None
    assert found.created == record.created
    assert found.files == {"logits": "logits.npy"}  # the model was not logged
    assert (tmp_path / "two" / "logits.npy").read_bytes() == b"figures"
    assert Record.load(tmp_path / "two") == found
    assert fetch(settings, record.fingerprint, "4567", tmp_path / "three") is None
    assert fetch(settings, "unknown", "0123", tmp_path / "three") is None


def test_failure_and_a_store_that_is_away_are_not_found(
    tmp_path: Path, settings: TrackingSettings
) -> None:
    record = save(make_failed(), tmp_path / "one")
    push(record, tmp_path / "one", settings, "sweep")
    assert fetch(settings, record.fingerprint, "0123", tmp_path / "two") is None
    away = dataclasses.replace(settings, uri="http://127.0.0.1:9")
    assert fetch(away, record.fingerprint, "0123", tmp_path / "two") is None
    off = dataclasses.replace(settings, enabled=False)
    assert fetch(off, record.fingerprint, "0123", tmp_path / "two") is None


def artifacts_of(settings: TrackingSettings) -> Path:
    """Where the one run of the store keeps its files."""
    [record] = (Path(settings.outputs) / "mlartifacts").rglob(FILE)
    return record.parent


@pytest.mark.parametrize("how", ["forged", "link"])
def test_files_that_are_not_those_of_the_record_are_not_brought_back(
    tmp_path: Path, settings: TrackingSettings, how: str
) -> None:
    record = save(make_record(), tmp_path / "one")
    push(record, tmp_path / "one", settings, "sweep")
    logits = artifacts_of(settings) / "logits.npy"
    (tmp_path / "secret").write_bytes(b"figures")
    if how == "link":  # to what has the right hash, even
        logits.unlink()
        logits.symlink_to(tmp_path / "secret")
    else:
        logits.write_bytes(b"forged")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "logits.npy").write_bytes(b"mine")
    assert fetch(settings, record.fingerprint, "0123", tmp_path / "two") is None
    assert (tmp_path / "two" / "logits.npy").read_bytes() == b"mine"
    assert [p.name for p in (tmp_path / "two").iterdir()] == ["logits.npy"]


@pytest.mark.parametrize("path", ["../mine", "/mine", "."])
def test_record_whose_files_lie_outside_leaves_the_readers_folders_alone(
    tmp_path: Path, settings: TrackingSettings, path: str
) -> None:
    record = save(make_record(), tmp_path / "one")
    value = json.loads((tmp_path / "one" / FILE).read_text())
    value["files"]["model"] = str(tmp_path / "mine") if path == "/mine" else path
    push(record, tmp_path / "one", settings, "sweep")
    (artifacts_of(settings) / FILE).write_text(json.dumps(value))
    with opened(settings) as client:
        [run] = client.search_runs(["1"])
        client.delete_tag(run.info.run_id, "record_sha256")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    assert fetch(settings, record.fingerprint, "0123", tmp_path / "two") is None
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "mine"
