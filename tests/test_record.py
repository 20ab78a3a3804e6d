"""A record survives the disk, matches its schema, and refuses what is no record."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from version_1 import FOLDER as VERSION_1

from pqbench.core.errors import DataError
from pqbench.core.record import (
    SCHEMA_VERSION,
    Accuracy,
    AgainstBaseline,
    ErrorInfo,
    Experiment,
    Latency,
    Record,
    Speedup,
    json_schema,
)
from pqbench.core.record.fields import Part, doc
from pqbench.core.record.reading import fingerprint_of


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


def values() -> dict[str, Any]:
    """What is on disk."""
    value: dict[str, Any] = json.loads(json.dumps(example().to_dict()))
    return value


def test_record_comes_back_equal_from_disk(tmp_path: Path) -> None:
    record = example()
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    assert not Record.load(tmp_path).altered


def test_record_matches_its_schema_and_a_changed_one_does_not() -> None:
    value = values()
    jsonschema.validate(value, json_schema())
    value["latency"][0]["p50_ms"] = "fast"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, json_schema())


def test_every_field_is_documented() -> None:
    def check(schema: dict[str, Any]) -> None:
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


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for part in path[:-1]:
            value = value[part]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("seconds", to="long"), "seconds: .*number, not 'long'"),
        (_set("seconds", to="1.5"), "seconds"),
        (_set("latency", 0, "n", to=1.5), r"latency\.0\.n"),
        (_set("latency", 0, "stable", to=1), r"latency\.0\.stable"),
        (_set("latency", 0, "p50", to=1.0), r"latency\.0\.p50: no field"),
        (_set("speedup", to={}), "speedup"),
        (_set("experiment", "recipe", to=[1]), r"experiment\.recipe\.0"),
        (_set("status", to="fine"), "status"),
        (_set("seconds", to=float("nan")), "JSON"),
        (_set("config", "x", to=float("inf")), "JSON"),
    ],
)
def test_wrong_value_is_refused_by_its_path_when_read(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    value = values()
    change(value)
    (tmp_path / "record.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=said):
        Record.load(tmp_path)


@pytest.mark.parametrize("wrong", ["long", float("nan"), float("inf")])
def test_wrong_value_is_refused_when_written_and_nothing_is_left(
    tmp_path: Path, wrong: Any
) -> None:
    record = example()
    record.seconds = wrong
    with pytest.raises(DataError, match="cannot write"):
        record.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_field_is_named(tmp_path: Path) -> None:
    value = values()
    del value["latency"][0]["p50_ms"]
    (tmp_path / "record.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"latency\.0\.p50_ms: Field required"):
        Record.load(tmp_path)


def test_record_of_a_newer_pqbench_says_so(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(values() | {"schema_version": 99}))
    with pytest.raises(DataError, match=r"newer pqbench.*update pqbench"):
        Record.load(tmp_path)


def test_digest_does_not_change_by_a_field_added_with_a_default() -> None:
    @dataclasses.dataclass
    class Before(Part):
        seconds: float = doc("Time in s")

    @dataclasses.dataclass
    class After(Before):
        joules: float | None = doc("Energy in J", default=None)

    assert fingerprint_of(Before(2)) == fingerprint_of(After(2.0))
    assert fingerprint_of(After(2.0)) != fingerprint_of(After(2.0, 1.0))


@pytest.mark.parametrize("name", ["baseline", "nncf_int8", "crashed"])
def test_record_of_version_1_is_read_and_knows_whether_it_was_altered(
    tmp_path: Path, name: str
) -> None:
    record = Record.load(VERSION_1 / name)
    assert record.schema_version == SCHEMA_VERSION
    assert not record.altered
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    value = json.loads((VERSION_1 / name / "record.json").read_text())
    assert value["schema_version"] == 1
    value["seconds"] += 1
    (tmp_path / "record.json").write_text(json.dumps(value))
    assert Record.load(tmp_path).altered


def test_measuring_process_makes_records_without_pydantic() -> None:
    code = (
        "import sys; from pqbench.core.record import Cold; Cold(load_s=1.0); "
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
