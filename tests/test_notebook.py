"""docs/records.ipynb runs, and its tables are those of the records."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import notebook
import numpy as np
import pandas as pd
import pytest
from record_factory import make_record, make_sweep

from pqbench.core.record import Record

PAGE = Path(__file__).parents[1] / "docs" / "records.ipynb"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two sweeps, the older one without anything in it."""
    sweeps = tmp_path / "outputs" / "sweeps"
    (sweeps / "2026-01-01_00-00-00").mkdir(parents=True)
    for number, record in enumerate(make_sweep()):
        name = f"{number}_{record.experiment.model}_{record.experiment.recipe_name}"
        folder = sweeps / "2026-01-02_00-00-00" / name
        folder.mkdir(parents=True)
        record.save(folder)
        if record.speedup:
            write_samples(folder, (3, 1, 2))
            (folder / "baseline").mkdir()
            make_record().save(folder / "baseline")
            write_samples(folder / "baseline", (3, 1, 0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_samples(folder: Path, answers: Sequence[int]) -> None:
    """Raw calls and predictions, as an experiment leaves them."""
    sides = ["baseline", "candidate"] * 20
    calls = {
        "batch_size": np.int32(1),
        "side": pd.Categorical(sides),
        "ns": [4_000_000 if side == "baseline" else 2_000_000 for side in sides],
        "disturbed": [False] * 38 + [True] * 2,
    }
    pd.DataFrame(calls).to_parquet(folder / "latency.parquet")
    scored = {"index": range(3), "label": 3, "prediction": answers, "probability": 0.5}
    pd.DataFrame(scored).to_parquet(folder / "predictions.parquet")


@pytest.mark.usefixtures("place")
def test_notebook_runs_and_shows_what_the_records_say() -> None:
    shown = notebook.run_cells(json.loads(PAGE.read_text(encoding="utf-8")))
    records = make_sweep()
    assert shown[0] == f"{len(records)} records\n"
    for record in records:
        assert re.search(rf"{record.experiment.backend} .*{record.status}", shown[1])
    ratios = [f"{s.ratio:.3f}".rstrip("0") for r in records for s in r.speedup]
    assert all(ratio in shown[2] for ratio in ratios)
    disturbed = next(s for r in records for s in r.speedup if s.disturbed)
    assert f"{disturbed.ratio:.3f}" in shown[2]
    assert f"{disturbed.ratio:.3f}" not in shown[3]
    assert re.search(r"baseline +19.0 +4.0 +4.0 +4.0", shown[4])
    assert re.search(r"candidate +19.0 +2.0 +2.0 +2.0", shown[4])
    assert shown[5].startswith("1 of 3\n")
    assert re.search(r"^2 +2 +3 +0 +2 +0.5$", shown[5], re.MULTILINE)


@pytest.mark.usefixtures("place")
def test_notebook_keeps_tables_of_the_same_columns() -> None:
    page = json.loads(PAGE.read_text(encoding="utf-8"))
    kept = ["".join(c["outputs"][0]["text"]) for c in page["cells"] if c["cell_type"] == "code"]
    for old, new in zip(kept, notebook.run_cells(page), strict=True):
        assert header(old) == header(new)


def header(text: str) -> list[str]:
    """The words of a table's first line, without figures and the runtimes that are columns."""
    words = re.findall(r"[A-Za-z][\w.%-]*", text.splitlines()[0])
    return [word for word in words if word not in ("openvino", "ort", "onnxruntime")]


def test_runner_stops_at_an_error_and_shows_the_last_expression() -> None:
    def cell(source: str) -> dict[str, object]:
        return {"cell_type": "code", "source": [source]}

    cells = [cell("a = 2\nprint(a)"), {"cell_type": "markdown", "source": []}, cell("a + 1")]
    assert notebook.run_cells({"cells": cells}) == ["2\n", "3\n"]
    with pytest.raises(NameError):
        notebook.run_cells({"cells": [cell("b")]})


def test_record_loads_as_the_page_says(place: Path) -> None:
    folder = next((place / "outputs" / "sweeps").glob("*/0_*"))
    assert Record.load(folder).status == "ok"
