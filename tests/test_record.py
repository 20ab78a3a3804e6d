"""A record survives the disk, matches its schema, and refuses what is no record."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from pqbench.core.errors import DataError
from pqbench.core.record import (
    Accuracy,
    AgainstBaseline,
    ErrorInfo,
    Experiment,
    Latency,
    Record,
    Speedup,
    json_schema,
)


def example() -> Record:
    return Record(
        status="ok",
        experiment=Experiment("m", "classification", "d", "val", ["prune"], "ort", "bundled"),
        fingerprint="0" * 16,
        baseline="1" * 16,
        created="2026-01-01T00:00:00+00:00",
        seconds=1.5,
        command="python -m pqbench",
        config={"seed": 0},
        environment={"cpu": {"model": "x"}},
        error=ErrorInfo("plan", "E", "m"),
        latency=[Latency(1, 10, 1.0, 0.9, 1.1, 1.0, 0.1, 0.8, None, None, None, 1.0, 1000.0, True)],
        speedup=[Speedup(1, 2.0, 1.9, 2.1, 5, 0, False, 2.0)],
        accuracy=Accuracy(
            "val", 10, 0.9, 0.8, 1.0, 0.9, None, AgainstBaseline(1.0, -1.0, 3.0, 0.5, 0.99)
        ),
    )


def test_record_comes_back_equal_from_disk(tmp_path: Path) -> None:
    record = example()
    record.save(tmp_path)
    assert Record.load(tmp_path) == record


def test_record_matches_its_schema_and_a_changed_one_does_not() -> None:
    value = json.loads(json.dumps(example().to_dict()))
    jsonschema.validate(value, json_schema())
    value["latency"][0]["p50_ms"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, json_schema())


def test_every_field_is_documented() -> None:
    def check(schema: dict) -> None:
        for name, prop in schema.get("properties", {}).items():
            assert prop.get("description"), name
            for inner in (prop, prop.get("items", {}), *prop.get("anyOf", [])):
                check(inner)

    check(json_schema())


@pytest.mark.parametrize("text", ["", '{"status": "ok"', "{}", '{"schema_version": 99}', "[]"])
def test_what_is_no_record_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"record\.json"):
        Record.load(path)
