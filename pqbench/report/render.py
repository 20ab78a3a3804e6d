"""A table for the terminal, as Markdown and CSV; the cells are formatted already."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.core.record import Latency, Record
from pqbench.report.rows import Row
from pqbench.report.significance import compare_with_baselines
from pqbench.report.table import Cell, Table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NOT_IN_CSV = ("marks", "untrusted", "per_sample_ms", "speedups")
NS = "\u207f\u02e2"  # superscript letters
GROUPING = ("model", "dataset", "backend", "machine")


def superscript(numbers: Sequence[int]) -> str:
    """Footnote marks, e.g. ``¹·²``."""
    return "·".join(str(n).translate(_SUPERSCRIPT) for n in numbers)


def short_note(note: str) -> str:
    """The footnote of a noisy figure in words that all of them share; others as they are.

    How wide an interval is stands in its cell; ``table.md`` has the whole footnote.
    """
    if note.startswith("unstable at batch"):
        return "unstable: the interval is wide or drifts, or other load disturbed it"
    if note.startswith("disturbed at batch"):
        return "disturbed: too few blocks free of other load; do not trust the ratio"
    return note


def _shortened(table: Table) -> Table:
    """The same with short footnotes, each once."""
    short = [short_note(text) for text in table.footnotes]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(short), start=1)}

    def renumber(cell: Cell) -> Cell:
        notes = dict.fromkeys(numbers[short[n - 1]] for n in cell.notes)
        return dataclasses.replace(cell, notes=tuple(notes))

    cells = tuple(tuple(map(renumber, line)) for line in table.cells)
    return dataclasses.replace(table, cells=cells, footnotes=tuple(numbers))


def _marks(cell: Cell) -> str:
    """What stands raised after a value: ``ns`` and the numbers of its footnotes."""
    parts = [*([NS] if cell.noise else []), *([superscript(cell.notes)] if cell.notes else [])]
    return "·".join(parts)


def repeats(table: Table, row: int, column: int) -> bool:
    """Whether model, data set, backend or machine only repeats what stands above it."""
    if row == 0 or table.columns[column].name not in GROUPING:
        return False
    above, here = table.cells[row - 1], table.cells[row]
    return all(above[i].text == here[i].text for i in range(column + 1))


def group_ends(table: Table, row: int) -> bool:
    """Whether a rule belongs below this row: another model, data set or backend follows."""
    if row + 1 == len(table.rows):
        return True
    grouping = [i for i, c in enumerate(table.columns) if c.name in GROUPING]
    return not repeats(table, row + 1, grouping[-1])


def to_rich(table: Table, width: int = 120) -> Group:
    """For the terminal, whole from 100 columns up.

    Model and backend head their group, an interval stands under its value, and a status other than
    ok under its recipe.

    Args:
        table: What to show.
        width: Columns of the terminal. Below 116 the table's columns move closer together, below
            98 the largest batch is left out, which is said.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    table = _shortened(table)
    narrow = _left_out(table, width)
    left_out = [c.header for c in table.columns if c.name in narrow]
    numeric = [i for i, c in enumerate(table.columns) if c.numeric and c.name not in narrow]
    names = [c.name for c in table.columns]
    recipe, status = names.index("recipe"), names.index("status")
    grouping = [i for i, name in enumerate(names) if name in GROUPING]
    view = RichTable(box=SIMPLE_HEAD, padding=(0, int(width >= 116), 0, 0), pad_edge=False)
    view.add_column("recipe", min_width=16)
    for index in numeric:
        header = table.columns[index].header.replace(", ", "\n").replace(" [", "\n[")
        header = header.replace(" (", "\n(")
        # a header's words may wrap, a number with its marks or an interval may not
        words = [*header.split(), *(line[index].detail for line in table.cells)]
        words += [line[index].text + _marks(line[index]) for line in table.cells]
        view.add_column(Text(header), justify="right", min_width=max(map(len, words)))
    for index, line in enumerate(table.cells):
        if index == 0 or group_ends(table, index - 1):
            title = " · ".join(line[i].text for i in grouping)
            view.add_row(Text(title, style="bold"))
        cells = [line[recipe], *(line[i] for i in numeric)]
        texts = [_rich_cell(cell) for cell in cells]
        texts[0].plain = texts[0].plain.replace("+", " + ")  # may wrap there
        if line[status].text != "ok":
            texts[0].append("\n").append(line[status].text, style="bold red")
            texts[0].append(superscript(line[status].notes), style="yellow")
        view.add_row(*texts, end_section=group_ends(table, index))
    notes = [
        Text(f"{superscript([number])} {text}", style="yellow")
        for number, text in enumerate(table.footnotes, start=1)
    ]
    if left_out:
        notes.append(Text(f"Left out in {width} columns: {'; '.join(left_out)}", style="yellow"))
    return Group(view, *notes, Text(table.legend, style="dim"))


def _left_out(table: Table, width: int) -> tuple[str, ...]:
    """Columns that do not fit: the largest batch, or the middle ones of many batch sizes."""
    if table.name == "summary":
        clean = [c.name for c in table.columns if c.name in ("clean_pct", "clean_drop_pt")]
        last = [c.name for c in table.columns if c.name in ("sample_ms", "speedup_last")]
        return (*(clean if width < 122 else ()), *(last if width < 98 else ()))
    sizes = [c.name for c in table.columns if c.batch is not None]
    room = max(2, (width - 48) // 13)
    kept = {*sizes[: room - 1], sizes[-1]} if sizes else set()
    return tuple(name for name in sizes if name not in kept)


def _rich_cell(cell: Cell) -> Text:
    from rich.text import Text

    text = Text().append(cell.text, style="bold green" if cell.best else "")
    text.append(_marks(cell), style="yellow")
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text


def to_markdown(table: Table) -> str:
    """A GitHub table with its footnotes; every row is complete, so that it can be searched."""

    def escape(text: str) -> str:
        return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

    def show(cell: Cell) -> str:
        text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
        detail = f" ({cell.detail})" if cell.detail else ""
        raised = [*(["ns"] if cell.noise else []), *map(str, cell.notes)]
        marks = f"<sup>{', '.join(raised)}</sup>" if raised else ""
        return f"{text}{detail}{marks}"

    lines = [
        "| " + " | ".join(c.header for c in table.columns) + " |",
        "| " + " | ".join("---:" if c.numeric else "---" for c in table.columns) + " |",
        *("| " + " | ".join(show(cell) for cell in line) + " |" for line in table.cells),
        "",
        *(
            f"<sup>{number}</sup> {escape(text)}<br>"
            for number, text in enumerate(table.footnotes, start=1)
        ),
        "",
        table.legend,
        "",
    ]
    return "\n".join(lines)


def to_csv(table: Table) -> str:
    """The rows' numbers, unrounded; ``_low`` and ``_high`` are the ends of 95 % intervals."""
    batch = {c.name: c.batch for c in table.columns}
    names = {"p50_ms": "p50_ms", "sample_ms": "ms_per_sample"}
    names |= {"speedup_first": "speedup", "speedup_last": "speedup"}
    header: list[str] = []
    kept = []
    for f in dataclasses.fields(Row):
        if f.name in _NOT_IN_CSV or (f.name in names and f.name not in batch):
            continue
        name = f"{names[f.name]}_b{batch[f.name]}" if f.name in names else f.name
        is_estimate = "Estimate" in str(f.type)
        header += [name, f"{name}_low", f"{name}_high"] if is_estimate else [name]
        kept.append((f.name, is_estimate))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "notes"])
    for row in table.rows:
        values: list[object] = []
        for name, is_estimate in kept:
            value = getattr(row, name)
            if is_estimate:
                values += [value.value, value.low, value.high] if value else [None] * 3
            else:
                values.append(value)
        notes = dict.fromkeys(text for texts in row.marks.values() for text in texts)
        writer.writerow([*values, " | ".join(notes)])
    return out.getvalue()


def to_batches_csv(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """Every batch size of every experiment on a line of its own, unrounded."""
    latency = [f.name for f in dataclasses.fields(Latency) if f.name != "batch_size"]
    names = ("model", "dataset", "backend", "recipe", "machine", "status")
    speedup = ("speedup", "speedup_low", "speedup_high", "speedup_pairs", "speedup_disturbed")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "fingerprint", "created", "batch_size", *latency, *speedup])
    for record, row in zip(records, rows, strict=True):
        head = [*(getattr(row, name) for name in names), record.fingerprint, record.created]
        for item in record.latency:
            gain = record.speedup_at(item.batch_size)
            ends: list[object] = [None] * len(speedup)
            if gain:
                ends = [gain.ratio, gain.low, gain.high, gain.pairs, gain.disturbed]
            values = [getattr(item, name) for name in latency]
            writer.writerow([*head, item.batch_size, *values, *ends])
    return out.getvalue()


_COMPARISON = (
    "model", "dataset", "backend", "recipe", "machine", "figure", "batch_size", "value", "low",
    "high", "p", "p_holm", "verdict",
)  # fmt: skip


def significance_lines(rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Every comparison with a baseline as plain values, in the order of ``_COMPARISON``."""
    lines: list[tuple[object, ...]] = []
    for item in compare_with_baselines(rows):
        row, value = rows[item.row], item.estimate
        figure = "drop_pt" if item.name == "drop_pt" else "speedup"
        place = (row.model, row.dataset, row.backend, row.recipe, row.machine)
        ends = (value.value, value.low, value.high)
        lines.append(
            (*place, figure, item.batch_size, *ends, item.p, item.adjusted_p, item.verdict)
        )
    return lines


def significance_csv(rows: Sequence[Row]) -> str:
    """Every comparison with a baseline, its p and Holm's adjusted p."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([_COMPARISON, *significance_lines(rows)])
    return out.getvalue()
