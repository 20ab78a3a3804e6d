"""A record's paths stay inside its folder, its files are those measured, names are texts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from record_factory import make_failed, make_record

from pqbench import reproduce
from pqbench.app.arguments import config_folder, prepare
from pqbench.core.errors import ConfigError, DataError
from pqbench.core.files import copy_tree
from pqbench.core.paths import files_inside, inside
from pqbench.core.record import FILE, Record
from pqbench.data.folder import ImageFolder
from pqbench.experiment import config as schema
from pqbench.experiment.reuse import FinishedRecords, copy_record
from pqbench.report.load import find_records

BAD = [
    "/etc/passwd", "../other", "a/../../b", "", ".", "C:/x", "a\\b", "~/../../x/../..", "a\0b",
    "record.json", "baseline", "report/table.tex", "tracking.json", ".hydra", ".ssh/id",
]  # fmt: skip


def written(folder: Path) -> Record:
    """A record with a model and two files, as it is when an experiment has ended."""
    files = {"logits": "logits.npy", "latency": "latency.parquet", "model": "model", "logs": "logs"}
    record = dataclasses.replace(make_record(), files=files, identity="0123")
    for name in ("logits.npy", "latency.parquet", "model/model.onnx", "logs/fit.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    record.hash_files(folder)
    record.save(folder)
    return record


@pytest.mark.parametrize("text", BAD)
def test_record_whose_path_leads_out_or_to_no_result_is_refused_when_read(
    tmp_path: Path, text: str
) -> None:
    value = {**make_record().to_dict(), "files": {"model": text}}
    (tmp_path / FILE).write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"files\.model"):
        Record.load(tmp_path)
    assert find_records(tmp_path) == []


def test_record_whose_log_leads_out_is_refused(tmp_path: Path) -> None:
    value = make_failed().to_dict()
    value["error"]["log"] = "../../.ssh/id_rsa"
    with pytest.raises(DataError, match=r"error\.log"):
        Record.from_dict(value)


def test_path_over_a_link_is_refused_when_used(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("private")
    folder = tmp_path / "record"
    (folder / "model").mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    (folder / "model" / "weights").symlink_to(secret / "key")
    os.mkfifo(folder / "pipe")
    for text in ("link", "link/key"):
        with pytest.raises(DataError, match="is a link"):
            inside(folder, text)
    for text in ("model", "model/weights", "pipe"):
        with pytest.raises(DataError, match="is a link"):
            files_inside(folder, text)
    record = dataclasses.replace(make_record(), files={"model": "model"})
    with pytest.raises(DataError, match="is a link"):
        copy_record(record, folder, tmp_path / "copy")


def test_copies_of_a_model_are_not_changed_by_writing_to_the_source(tmp_path: Path) -> None:
    source = tmp_path / "cache"
    source.mkdir()
    (source / "model.onnx").write_bytes(b"as measured")
    copy_tree(source, tmp_path / "record")
    with (source / "model.onnx").open("r+b") as file:  # in place, as a careless step does
        file.write(b"XX")
    assert (tmp_path / "record" / "model.onnx").read_bytes() == b"as measured"
    assert (tmp_path / "record" / "model.onnx").stat().st_nlink == 1


@pytest.mark.parametrize("name", ["logits.npy", "latency.parquet", "model/model.onnx"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_forged_file_shows_in_check_and_is_measured_again(
    tmp_path: Path, name: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = written(tmp_path)
    finished = FinishedRecords(None, tmp_path, record.fingerprint)
    assert finished.here() is not None
    assert record.altered_files(tmp_path) == []
    (tmp_path / name).write_text("forged") if how == "changed" else (tmp_path / name).unlink()
    reproduce.main([str(tmp_path), "--check"])
    assert f"ALTERED   {name} {'was ' * (how == 'changed')}{'is ' * (how != 'changed')}{how}" in (
        capsys.readouterr().out
    )
    assert finished.here() is None


def test_file_added_to_the_model_shows_and_a_longer_log_does_not(tmp_path: Path) -> None:
    record = written(tmp_path)
    (tmp_path / "logs" / "fit.log").write_text("more")
    assert record.altered_files(tmp_path) == []
    (tmp_path / "model" / "more.bin").write_text("x")
    assert record.altered_files(tmp_path) == ["model/more.bin was added"]


def test_hashes_of_files_that_were_changed_with_them_break_the_digest(tmp_path: Path) -> None:
    record = written(tmp_path)
    digest = record.digest
    (tmp_path / "logits.npy").write_text("forged")
    record.hash_files(tmp_path)
    assert record.seal() != digest


def test_lock_reads_no_link_and_prints_only_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "record"
    folder.mkdir()
    (tmp_path / "secret").write_text("private==1\n")
    record = dataclasses.replace(make_record(), files={"lock": "requirements.txt"})
    record.save(folder)
    lock = folder / "requirements.txt"
    lock.write_text("torch==2.1\n--index-url http://bad\nx @ file:///tmp/x\nnumpy==1; y\n")
    assert reproduce.main([str(folder), "--lock"]) == 0
    assert capsys.readouterr().out == "torch==2.1\n"
    lock.unlink()
    lock.symlink_to(tmp_path / "secret")
    assert reproduce.main([str(folder), "--lock"]) == 2
    assert "private" not in capsys.readouterr().out


@pytest.mark.parametrize("where", ["file", "class", "root"])
def test_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path, where: str) -> None:
    bad = {
        name: os.fsdecode(b"\xe9") if name == where else "" for name in ("file", "class", "root")
    }
    root = tmp_path / f"photos{bad['root']}"
    try:
        for label in ("ash", f"oak{bad['class']}"):
            (root / label).mkdir(parents=True)
            for name in ("a.png", f"b{bad['file']}.png"):
                with (root / label / name).open("wb") as file:
                    Image.new("RGB", (8, 8)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with pytest.raises(DataError, match=r"\\xe9.*the name is not UTF-8"):
        ImageFolder(str(root), held_out=0.5).index().listing_hash()


def test_argument_that_is_not_utf8_is_refused_at_the_door() -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.root=caf\\xe9: the name is not UTF-8"):
        prepare([os.fsdecode(b"dataset.root=caf\xe9")])


def test_setting_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQBENCH_TEST_ROOT", os.fsdecode(b"caf\xe9"))
    schema.register()
    overrides = ["dataset=imagefolder", "dataset.root=${oc.env:PQBENCH_TEST_ROOT}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides=overrides)
    with pytest.raises(ConfigError, match=r"caf\\xe9: the name is not UTF-8"):
        schema.read(config)
