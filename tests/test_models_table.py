"""The table of docs/models.md comes from records alone, failed cells included."""

from __future__ import annotations

from pathlib import Path

import models_table
import pytest
from predecessors import BEGIN, END
from record_factory import make_failed, make_record

ROOT = Path(__file__).resolve().parents[1]


def test_models_table_has_a_line_for_every_cell_with_its_figures_or_reason(tmp_path: Path) -> None:
    records = [
        make_record("net", "openvino", ("nncf_int8",), ms=4.0, drop_pt=0.37, top1=0.9),
        make_record("net", "ort", ms=8.0),
        make_failed("net", "torch", ("nncf_int8",), status="unsupported", message="no | way\nmore"),
    ]
    for index, record in enumerate(records):
        (tmp_path / "sweep" / str(index)).mkdir(parents=True)
        record.save(tmp_path / "sweep" / str(index))
    page = tmp_path / "models.md"
    page.write_text(f"prose\n{BEGIN}\nold 99.9\n{END}\n")
    models_table.make([tmp_path / "sweep"], page)
    text = page.read_text()
    assert text.startswith("prose\n")
    assert "99.9" not in text
    assert "3 cells, 2 of them with a result" in text
    rows = [line for line in text.splitlines() if line.startswith("| net")]
    assert [row.split(" | ")[3:6] for row in rows] == [
        ["none", "ort", "`ok`"],
        ["nncf_int8", "torch", "`unsupported`"],
        ["nncf_int8", "openvino", "`ok`"],
    ]
    assert all(row.replace("\\|", "").count("|") == len(models_table.HEADER) + 1 for row in rows)
    assert "no \\| way |" in rows[1]
    assert "top-1 90.0 [" in rows[2]
    assert "| 0.4 [" in rows[2]


def test_models_table_without_results_is_refused() -> None:
    with pytest.raises(ValueError, match="none of these records"):
        models_table.lines([make_failed()])
