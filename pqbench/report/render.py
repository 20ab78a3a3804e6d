"""A table as Markdown and CSV, and CSV of what else is made from rows."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence

from pqbench.core.record import Latency, Record
from pqbench.report.escape import markdown, spreadsheet
from pqbench.report.rows import Estimate, Row
from pqbench.report.significance import Comparison, compare_with_baselines
from pqbench.report.table import FLAGS, NS, Cell, Table


def to_markdown(table: Table) -> str:
    """A GitHub table with its footnotes; every row is complete, so that it can be searched."""

    def show(cell: Cell) -> str:
        text = f"**{markdown(cell.text)}**" if cell.best else markdown(cell.text)
        detail = f" ({markdown(cell.detail)})" if cell.detail else ""
        marks = [*([NS[0]] if cell.noise else []), *([FLAGS[cell.flag][0]] if cell.flag else [])]
        raised = [*marks, *map(str, cell.notes)]
        return f"{text}{detail}" + (f"<sup>{', '.join(raised)}</sup>" if raised else "")

    lines = [
        "| " + " | ".join(markdown(c.header) for c in table.columns) + " |",
        "| " + " | ".join("---:" if c.numeric else "---" for c in table.columns) + " |",
        *("| " + " | ".join(show(cell) for cell in line) + " |" for line in table.cells),
        "",
        *(
            f"<sup>{number}</sup> {markdown(text)}<br>"
            for number, text in enumerate(table.footnotes, start=1)
        ),
        "",
        markdown(table.legend),
        "",
    ]
    return "\n".join(lines)


def plain_markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A GitHub table of texts."""
    rows = [[markdown(text) for text in line] for line in (header, *lines)]
    rows.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def to_csv(table: Table) -> str:
    """The rows' figures, unrounded; ``_low`` and ``_high`` are the ends of 95 % intervals."""
    columns = (*table.columns, *table.more)
    header = [
        name
        for c in columns
        for name in ((c.name, f"{c.name}_low", f"{c.name}_high") if c.interval else (c.name,))
    ]
    lines: list[list[object]] = [[*header, "notes"]]
    for row, cells in zip(table.rows, table.cells, strict=True):
        values: list[object] = []
        for column in columns:
            value = (column.plain or column.value)(row)
            if isinstance(value, Estimate):
                values += [value.value, value.low, value.high]
            else:
                values += [value, None, None] if column.interval else [value]
        notes = dict.fromkeys(table.footnotes[n - 1] for cell in cells for n in cell.notes)
        flags = dict.fromkeys(cell.why for cell in cells if cell.why)
        lines.append([*values, " | ".join([*notes, *flags])])
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """CSV that a spreadsheet takes as text and numbers, never as formulas."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([[spreadsheet(value) for value in line] for line in lines])
    return out.getvalue()


def to_batches_csv(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """Every batch size of every experiment on a line of its own, unrounded."""
    latency = [f.name for f in dataclasses.fields(Latency) if f.name != "batch_size"]
    names = ("model", "dataset", "backend", "recipe", "machine", "status")
    speedup = ("speedup", "speedup_low", "speedup_high", "speedup_pairs", "speedup_disturbed")
    head_line = [*names, "fingerprint", "created", "batch_size", *latency, *speedup]
    lines: list[list[object]] = [[*head_line]]
    for record, row in zip(records, rows, strict=True):
        head = [*(getattr(row, name) for name in names), record.fingerprint, record.created]
        for item in record.latency:
            gain = record.speedup_at(item.batch_size)
            ends: list[object] = [None] * len(speedup)
            if gain:
                ends = [gain.ratio, gain.low, gain.high, gain.pairs, gain.disturbed]
            values = [getattr(item, name) for name in latency]
            lines.append([*head, item.batch_size, *values, *ends])
    return csv_text(lines)


_COMPARISON = (
    "model", "dataset", "backend", "recipe", "machine", "figure", "batch_size", "value", "low",
    "high", "p", "p_holm", "verdict",
)  # fmt: skip


def significance_lines(
    rows: Sequence[Row], judged: Sequence[Comparison] | None = None
) -> list[tuple[object, ...]]:
    """Every comparison with a baseline as plain values, in the order of ``_COMPARISON``."""
    lines: list[tuple[object, ...]] = []
    for item in compare_with_baselines(rows) if judged is None else judged:
        row, value = rows[item.row], item.estimate
        figure = item.name if item.batch_size is None else "speedup"
        place = (row.model, row.dataset, row.backend, row.recipe, row.machine)
        ends = (value.value, value.low, value.high)
        lines.append(
            (*place, figure, item.batch_size, *ends, item.p, item.adjusted_p, item.verdict)
        )
    return lines


def significance_csv(rows: Sequence[Row], judged: Sequence[Comparison] | None = None) -> str:
    """Every comparison with a baseline, its p and Holm's adjusted p.

    Args:
        rows: In reading order.
        judged: Their comparisons, where they were made already.
    """
    return csv_text([_COMPARISON, *significance_lines(rows, judged)])
