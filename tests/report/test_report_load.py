import json

import jsonschema
import pytest
from record_factory import make_failed, make_record, make_sweep

from pqbench.core.errors import DataError
from pqbench.core.record import Record, json_schema
from pqbench.report.load import find_records, load_records, newest


@pytest.mark.parametrize("record", make_sweep())
def test_factory_makes_valid_records(record):
    value = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    jsonschema.validate(value, json_schema())
    assert Record.from_dict(value) == record


def test_load_finds_records_at_any_depth_and_skips_broken_ones(tmp_path, caplog):
    for place in ("", "a", "b/c/d"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        make_record(model=f"m{place[:1]}").save(tmp_path / place)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "record.json").write_text('{"status": "ok"')
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "record.json").write_text('{"schema_version": 999}')
    found = find_records(tmp_path)
    assert {folder for _, folder in found} == {tmp_path, tmp_path / "a", tmp_path / "b/c/d"}
    assert str(tmp_path / "e" / "record.json") in caplog.text
    assert "schema version 999" in caplog.text


@pytest.mark.parametrize("place", [f"mlartifacts/{'0' * 32}/artifacts", "cache/records/ab-cd"])
def test_load_leaves_out_copies(place, tmp_path):
    (tmp_path / place).mkdir(parents=True)
    make_record().save(tmp_path / place)
    assert find_records(tmp_path) == []


def test_load_refuses_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        load_records(tmp_path / "nowhere")


def test_newest_wins_whatever_the_order():
    old = make_failed(backend="openvino", recipe=())
    new = make_record(created="2026-11-21T10:00:00+00:00")
    assert old.fingerprint == new.fingerprint
    assert newest([old, new]) == newest([new, old]) == [new]
