"""What a search did is told in the report, and what is no such search is not."""

import json

import pytest
from record_factory import make_record

from pqbench.report.trail import HEADER, read_trail
from pqbench.report.write import write_report

STEPS = [
    {"at_s": 4.2, "cell": "a", "look": 1, "status": "ok", "ms": [3.0, 2.5, 3.5],
     "drop": [5, 1, 100], "dropped": ""},
    {"at_s": 9.0, "cell": "b", "look": 1, "status": "unsupported", "ms": None, "drop": None,
     "dropped": "unsupported: <no> | kernel"},
    {"at_s": 9.0, "cell": "a", "look": 0, "status": "", "ms": [3.0, 2.5, 3.5],
     "drop": [5, 1, 100], "dropped": "slower"},
]  # fmt: skip


def search(**changes):
    made = {
        "kind": "best",
        "cells": 9,
        "full": 2,
        "spent_s": 130.0,
        "undecided": [],
        "trail": STEPS,
    }
    return json.dumps({**made, **changes})


def test_trail_is_told_in_lines_and_rows(tmp_path):
    (tmp_path / "search.json").write_text(search(undecided=["c", "d"]))
    trail = read_trail(tmp_path)
    assert trail.unseen == 14  # of before the count was kept: every cell's two claims
    (tmp_path / "search.json").write_text(search(unseen=3))
    counted = read_trail(tmp_path)
    assert counted is not None and counted.unseen == 3
    first, second = trail.lines()
    assert "of 9 cells 2 were measured in full, 2 were dropped on cheaper looks, in 2 min" in first
    assert "before 2 cells were decided: c; d." in second
    rows = [dict(zip(HEADER, row, strict=True)) for row in trail.rows()]
    assert rows[0]["lost"] == "4" and rows[0]["of"] == "100" and rows[0]["ms low"] == "2.5"
    assert rows[1]["ms"] == "" and rows[2]["look"] == ""


def test_report_of_a_search_holds_its_trail_escaped(tmp_path):
    (tmp_path / "search.json").write_text(search())
    write_report([make_record()], tmp_path / "report", plots=False, trail=read_trail(tmp_path))
    text = (tmp_path / "report" / "search.md").read_text()
    assert "\\|" in text and "<no>" not in text
    assert "Searched: of 9 cells" in (tmp_path / "report" / "report.html").read_text()
    write_report([make_record()], tmp_path / "other", plots=False)
    assert not (tmp_path / "other" / "search.md").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", '{"trials": []}', search(trail=3), search(trail=[{}]), search(cells="x")],
)
def test_trail_of_another_search_or_a_broken_one_is_none(text, tmp_path):
    (tmp_path / "search.json").write_text(text)
    assert read_trail(tmp_path) is None
    assert read_trail(tmp_path / "nothing") is None
    assert read_trail(None) is None
