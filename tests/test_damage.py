"""One damaged file is named and set aside; it ends neither a sweep, a report nor a push."""

from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_record

from pqbench.app.sweep_state import PROGRESS, STATE, Progress, read_state
from pqbench.core.errors import DataError
from pqbench.core.files import MAX_BYTES, read_limited
from pqbench.core.record import FILE, Record
from pqbench.experiment.reuse import FinishedRecords
from pqbench.report.__main__ import main as report
from pqbench.report.plots_raw import _times_ms
from pqbench.report.write import write_report
from pqbench.tracking import content, journal

GOOD = json.dumps(make_record("m", "ort", ("nncf_int8",), speedup=2.0).to_dict()).encode()
DAMAGE = {
    "empty": b"",
    "cut in half": GOOD[: len(GOOD) // 2],
    "last byte lost": GOOD[:-1],
    "zeros": b"\0" * len(GOOD),
    "not UTF-8": GOOD.replace(b"mobilenetv3", b"mobilenet\xff3").replace(b'"m"', b'"\xff"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "no object": b"[1, 2]",
    "null": b"null",
    "NaN": GOOD.replace(b"83.4", b"NaN"),
    "infinite": GOOD.replace(b"83.4", b"1e999"),
    "a number of 6000 digits": GOOD.replace(b"83.4", b"9" * 6000),
    "nested without end": b"[" * 100_000,
    "twice": GOOD + GOOD,
    "another version": GOOD.replace(b'"schema_version": 2', b'"schema_version": 9'),
    "a text for a number": GOOD.replace(b"83.4", b'"long"'),
    "an unknown field": GOOD.replace(b'"status"', b'"state": 1, "status"'),
    "an unknown status": GOOD.replace(b'"status": "ok"', b'"status": "fine"'),
    "a time that is none": GOOD.replace(b"2026-11-20T", b"2026-31-20T"),
    "a time without a zone": GOOD.replace(b"10:00:00+00:00", b"10:00:00"),
}
ODD: list[Any] = [None, 5, -1, 0, 1e300, "x", "", [], {}, True, ["x"], {"a": 1}, "\x1b[2J", [[]]]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_record_is_named_set_aside_and_made_again(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(DAMAGE[kind])
    with pytest.raises(DataError, match=r"record\.json"):
        Record.load(tmp_path)
    finished = FinishedRecords(None, tmp_path, make_record("m", "ort").fingerprint)
    with caplog.at_level(logging.WARNING):
        assert finished.here() is None
    assert "record.json.damaged" in caplog.text
    assert (tmp_path / f"{FILE}.damaged").read_bytes() == DAMAGE[kind]
    (tmp_path / FILE).write_bytes(DAMAGE[kind])
    assert finished.here() is None
    assert {p.name for p in tmp_path.iterdir()} == {f"{FILE}.damaged", f"{FILE}.damaged-2"}


def test_report_skips_every_damaged_record_with_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_record("good", "ort").save(_made(tmp_path / "good"))
    for number, data in enumerate(DAMAGE.values()):
        (_made(tmp_path / str(number)) / FILE).write_bytes(data)
    _made(tmp_path / "folder" / FILE)
    assert report([str(tmp_path), "--no-plots"]) == 0
    assert "1 experiment: 1 ok" in capfd.readouterr().out
    for number in range(len(DAMAGE)):
        assert str(tmp_path / str(number) / FILE) in caplog.text


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*place, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*place, key))


@pytest.mark.parametrize("seed", range(2))
def test_odd_value_anywhere_is_refused_or_does_no_harm(seed: int, tmp_path: Path) -> None:
    base = json.loads(GOOD)
    other = make_record("m", "ort")
    draw = random.Random(seed)
    every = [(place, odd) for place in _places(base) for odd in ODD]
    passed = 0
    for place, odd in draw.sample(every, 150):
        value = copy.deepcopy(base)
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        try:
            record = Record.from_dict(value)
        except DataError as error:
            assert str(error)
            continue
        passed += 1
        write_report([other, record], tmp_path, plots=False)
        content.params(record), content.metrics(record), content.curves(record)
        content.tags(record, "0" * 64, "sweep")
        record.save(tmp_path)
    assert 20 < passed < 120


@pytest.mark.parametrize("text", [*DAMAGE.values(), b'[{"uri": 5}]', b'[{"uri": "sqlite://"}]'])
def test_damaged_journal_is_set_aside_and_the_store_asked_again(
    text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_record("m", "ort").save(tmp_path)
    entry = journal.Entry("sqlite:///a.db", "e", None, journal.record_sha256(tmp_path), run_id="1")
    journal.mark(tmp_path, entry)
    assert journal.pushed(tmp_path) == [entry]
    (tmp_path / journal.JOURNAL).write_bytes(text)
    assert journal.pushed(tmp_path) == []
    assert "tracking.json" in caplog.text
    assert (tmp_path / f"{journal.JOURNAL}.damaged").read_bytes() == text
    journal.mark(tmp_path, entry)
    assert journal.pushed(tmp_path) == [entry]


@pytest.mark.parametrize("text", [*DAMAGE.values(), b'{"command": 5, "total": 1, "started": 0}'])
def test_damaged_state_of_a_sweep_is_none(text: bytes, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(text)
    assert read_state(tmp_path) is None
    (tmp_path / PROGRESS).write_bytes(text + b'\n5\n{}\n{"job": "0", "status": "ok"}\n')
    assert "done" in Progress(tmp_path).view()


def test_damaged_samples_leave_their_curve_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "latency.parquet").write_bytes(b"PAR1" + b"\0" * 40)
    assert len(_times_ms(tmp_path / "latency.parquet", 1)) == 0
    assert "latency.parquet is damaged" in caplog.text


def test_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="longer than"):
        read_limited(path)


def test_file_is_read_as_far_as_it_is_whatever_size_it_claims(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"12345")
    assert read_limited(path) == b"12345"
    assert read_limited(path, limit=5) == b"12345"
    with pytest.raises(DataError, match="longer than 4 bytes"):
        read_limited(path, limit=4)
    if Path("/proc/self/status").is_file():  # claims to be empty
        assert read_limited(Path("/proc/self/status")).startswith(b"Name:")
