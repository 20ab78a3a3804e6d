"""A table for the terminal, as Markdown, LaTeX and CSV; the cells are formatted already."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.report.rows import Row
from pqbench.report.table import LEGEND, Cell, Table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_GROUPING = ("model", "dataset", "backend", "machine")


def superscript(numbers: Sequence[int]) -> str:
    """Footnote marks, e.g. ``¹·²``."""
    return "·".join(str(n).translate(_SUPERSCRIPT) for n in numbers)


def _repeats(table: Table, row: int, column: int) -> bool:
    """Whether model, data set, backend or machine only repeats what stands above it."""
    if row == 0 or table.columns[column].name not in _GROUPING:
        return False
    above, here = table.cells[row - 1], table.cells[row]
    return all(above[i].text == here[i].text for i in range(column + 1))


def _group_ends(table: Table, row: int) -> bool:
    """Whether a rule belongs below this row: another model, data set or backend follows."""
    if row + 1 == len(table.rows):
        return True
    grouping = [i for i, c in enumerate(table.columns) if c.name in _GROUPING]
    return not _repeats(table, row + 1, grouping[-1])


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

    narrow = ("sample_ms", "speedup_last") if width < 98 else ()
    left_out = [c.header for c in table.columns if c.name in narrow]
    numeric = [i for i, c in enumerate(table.columns) if c.numeric and c.name not in narrow]
    names = [c.name for c in table.columns]
    recipe, status = names.index("recipe"), names.index("status")
    grouping = [i for i, name in enumerate(names) if name in _GROUPING]
    view = RichTable(box=SIMPLE_HEAD, padding=(0, int(width >= 116), 0, 0), pad_edge=False)
    view.add_column("recipe", min_width=16)
    for index in numeric:
        header = table.columns[index].header.replace(", ", "\n").replace(" [", "\n[")
        header = header.replace(" (", "\n(")
        # a header's words may wrap, a number with its marks or an interval may not
        words = [*header.split(), *(line[index].detail for line in table.cells)]
        words += [line[index].text + superscript(line[index].notes) for line in table.cells]
        view.add_column(Text(header), justify="right", min_width=max(map(len, words)))
    for index, line in enumerate(table.cells):
        if index == 0 or _group_ends(table, index - 1):
            title = " · ".join(line[i].text for i in grouping)
            view.add_row(Text(title, style="bold"))
        cells = [line[recipe], *(line[i] for i in numeric)]
        texts = [_rich_cell(cell) for cell in cells]
        texts[0].plain = texts[0].plain.replace("+", " + ")  # may wrap there
        if line[status].text != "ok":
            texts[0].append("\n").append(line[status].text, style="bold red")
            texts[0].append(superscript(line[status].notes), style="yellow")
        view.add_row(*texts, end_section=_group_ends(table, index))
    notes = [
        Text(f"{superscript([number])} {text}", style="yellow")
        for number, text in enumerate(table.footnotes, start=1)
    ]
    if left_out:
        notes.append(Text(f"Left out in {width} columns: {'; '.join(left_out)}", style="yellow"))
    return Group(view, *notes, Text(LEGEND, style="dim"))


def _rich_cell(cell: Cell) -> Text:
    from rich.text import Text

    text = Text().append(cell.text, style="bold green" if cell.best else "")
    text.append(superscript(cell.notes), style="yellow")
    return text.append(f"\n{cell.detail}", style="dim") if cell.detail else text


def to_markdown(table: Table) -> str:
    """A GitHub table with its footnotes; every row is complete, so that it can be searched."""

    def escape(text: str) -> str:
        return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

    def show(cell: Cell) -> str:
        text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
        detail = f" ({cell.detail})" if cell.detail else ""
        marks = f"<sup>{', '.join(map(str, cell.notes))}</sup>" if cell.notes else ""
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
        LEGEND,
        "",
    ]
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """A booktabs table with the intervals in a second, smaller line of each cell."""
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\u2013": "--",
        "…": r"\ldots{}",
        "·": r"\textperiodcentered{}",
    }

    def escape(text: str) -> str:
        return "".join(special.get(c, c) for c in text)

    def show(cell: Cell, hidden: bool) -> str:
        text = "" if hidden else escape(cell.text)
        text = rf"\textbf{{{text}}}" if cell.best else text
        marks = rf"\textsuperscript{{{','.join(map(str, cell.notes))}}}" if cell.notes else ""
        interval = f"[{cell.detail.replace('…', ', ')}]" if "…" in cell.detail else cell.detail
        detail = rf"\\[-2pt]{{\tiny {escape(interval)}}}" if interval else ""
        return rf"\shortstack[r]{{{text}{marks}{detail}}}" if detail else text + marks

    lines = [
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('r' if c.numeric else 'l' for c in table.columns)}}}",
        r"\toprule",
        " & ".join(escape(c.header) for c in table.columns) + r" \\",
        r"\midrule",
    ]
    for index, line in enumerate(table.cells):
        shown = (show(cell, _repeats(table, index, i)) for i, cell in enumerate(line))
        lines.append(" & ".join(shown) + r" \\")
        if _group_ends(table, index) and index + 1 < len(table.rows):
            lines.append(r"\midrule")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    for number, text in enumerate(table.footnotes, start=1):
        lines.append(rf"\textsuperscript{{{number}}} {escape(text)}\par")
    return "\n".join([*lines, escape(LEGEND), ""])


def to_csv(table: Table) -> str:
    """The rows' numbers, unrounded; ``_low`` and ``_high`` are the ends of 95 % intervals."""
    batch = {c.name: c.batch for c in table.columns}
    names = {"p50_ms": "p50_ms", "sample_ms": "ms_per_sample"}
    names |= {"speedup_first": "speedup", "speedup_last": "speedup"}
    header: list[str] = []
    kept = []
    for f in dataclasses.fields(Row):
        if f.name in ("marks", "untrusted") or (f.name in names and f.name not in batch):
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
