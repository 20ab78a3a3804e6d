"""The table for a terminal: what fits its width, most important first, and short notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pqbench.core.errors import Status
from pqbench.report.column import Column, Kind
from pqbench.report.escape import terminal
from pqbench.report.table import FLAGS, Cell, Table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NS = "\u207f\u02e2"  # superscript letters
_RECIPE = 16  # least characters of the recipe's column


def superscript(number: int) -> str:
    """A footnote's mark, e.g. ``¹``."""
    return str(number).translate(_SUPERSCRIPT)


def repeats(table: Table, row: int, column: int) -> bool:
    """Whether model, data set, backend or machine only repeats what stands above it."""
    if row == 0 or table.columns[column].kind is not Kind.GROUP:
        return False
    above, here = table.cells[row - 1], table.cells[row]
    return all(above[i].text == here[i].text for i in grouping(table) if i <= column)


def grouping(table: Table) -> list[int]:
    """Places of the columns that rows are grouped by."""
    return [i for i, c in enumerate(table.columns) if c.kind is Kind.GROUP]


def place_of(table: Table, kind: Kind) -> int:
    """Place of the only column of a kind."""
    return next(i for i, c in enumerate(table.columns) if c.kind is kind)


def group_ends(table: Table, row: int) -> bool:
    """Whether a rule belongs below this row: another model, data set or backend follows."""
    return row + 1 == len(table.rows) or not repeats(table, row + 1, grouping(table)[-1])


def unsupported(table: Table) -> list[int]:
    """Rows that are said in one line: combinations that do not exist, beside some that do."""
    found = [i for i, row in enumerate(table.rows) if row.status == Status.UNSUPPORTED]
    return found if len(found) < len(table.rows) else []


def unsupported_line(table: Table, named: Callable[[str], str] = str) -> str:
    """The combinations that do not exist, in one line; empty if there are none.

    Args:
        table: Which rows to look at.
        named: How a backend is called.
    """
    found = unsupported(table)
    if not found:
        return ""
    rows = [table.rows[i] for i in found]
    names = dict.fromkeys(f"{row.recipe} · {named(row.backend)}" for row in rows)
    noun = "combination" if len(found) == 1 else "combinations"
    return f"Unsupported: {len(found)} {noun} ({', '.join(names)})"


@dataclass(frozen=True)
class Notes:
    """The footnotes of a terminal.

    Attributes:
        marks: The new number of a row's footnote, by row and old number.
        lines: The texts, in order of their numbers, from 1.
    """

    marks: dict[tuple[int, int], int]
    lines: list[str]


def one_line_each(table: Table, rows: Sequence[int], columns: Sequence[int]) -> Notes:
    """At most one line per row: its own footnotes together, those of many rows once.

    Args:
        table: With numbered footnotes.
        rows: The rows that are shown.
        columns: The columns that are shown.
    """
    found = {
        row: list(dict.fromkeys(n for i in columns for n in table.cells[row][i].notes))
        for row in rows
    }
    users = Counter(n for numbers in found.values() for n in numbers)
    marks: dict[tuple[int, int], int] = {}
    shared: dict[int, int] = {}
    lines: list[str] = []
    for row, numbers in found.items():
        own = [n for n in numbers if users[n] == 1]
        for n in numbers:
            if users[n] > 1 and n not in shared:
                lines.append(table.footnotes[n - 1])
                shared[n] = len(lines)
        if own:
            lines.append("; ".join(table.footnotes[n - 1] for n in own))
        marks |= {(row, n): shared.get(n, len(lines)) for n in numbers}
    return Notes(marks, lines)


def to_rich(table: Table, width: int = 120) -> Group:
    """The table for a terminal of ``width`` columns.

    Model and backend head their group, an interval stands under its value, and a status other than
    ok under its recipe. Columns that do not fit are left out, which is said; so are combinations
    that do not exist. A note is cut at the terminal's edge: ``table.md`` has the whole.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    recipe, status = place_of(table, Kind.RECIPE), place_of(table, Kind.STATUS)
    hidden = set(unsupported(table))
    rows = [i for i in range(len(table.rows)) if i not in hidden]
    fixed = [*grouping(table), recipe, status]
    least = _recipe_width(table, rows, width)
    shown, padding = _fitting(table, rows, width - least)
    notes = one_line_each(table, rows, [*fixed, *shown])
    widths = {index: _width(table, rows, index) for index in shown}
    recipes = [
        len(part) for i in rows for part in terminal(table.cells[i][recipe].text).split("\n")
    ]
    room = width - sum(widths.values()) - (padding + 1) * len(shown) - 1
    first = max(least, min(max(recipes, default=least) + 2, room))

    def part(header: bool) -> RichTable:
        """A table of the same columns, so that those of all groups stand below each other."""
        view = RichTable(
            box=SIMPLE_HEAD, padding=(0, padding, 0, 0), pad_edge=False, show_edge=False,
            show_header=header,
        )  # fmt: skip
        view.add_column("recipe", width=first, overflow="fold")
        for index in shown:
            title = Text("\n".join(_header(table.columns[index])))
            view.add_column(title, justify="right", width=widths[index])
        return view

    parts: list[RichTable | Text] = [part(header=True)]
    previous: tuple[str, ...] = ()
    for index in rows:
        line = table.cells[index]
        place = tuple(terminal(line[i].text) for i in grouping(table))
        if place != previous:  # a line of its own: in the first column it would be folded
            heading = Text(" · ".join(place), style="bold")
            parts += [*([Text()] if previous else []), heading, part(header=False)]
        previous = place
        view = parts[-1]
        assert isinstance(view, RichTable)
        texts = [_text(line[i], index, notes) for i in (recipe, *shown)]
        texts[0] = Text(" + ").join(texts[0].split("+"))  # may wrap there
        if line[status].text != Status.OK:
            why = _raised(line[status], index, notes)
            texts[0].append(f"\n{terminal(line[status].text)}", style="bold red")
            texts[0].append(why, style="yellow")
        view.add_row(*texts)
    parts.append(Text())
    below = [f"{superscript(n)} {text}" for n, text in enumerate(notes.lines, start=1)]
    below += [text] if (text := unsupported_line(table)) else []
    left_out = [c.header for i, c in enumerate(table.columns) if c.numeric and i not in shown]
    below += [f"Left out in {width} columns: {'; '.join(left_out)}"] if left_out else []
    lines = [_cut(terminal(text), width) for text in below]
    cut = any(line.endswith("…") for line in lines)
    legend = table.legend_of([*fixed, *shown]) + (" …: table.md has the whole." if cut else "")
    return Group(
        *parts,
        *(Text(line, style="yellow", no_wrap=True) for line in lines),
        Text(terminal(legend), style="dim"),
    )


def _header(column: Column) -> list[str]:
    """Title, unit and place on lines of their own."""
    unit = [f"[{column.unit}]"] if column.unit else []
    detail = [f"({column.detail_title})"] if column.detail_title else []
    return [*column.title.split(), *unit, *detail, *([column.at] if column.at else [])]


def _marks(cell: Cell) -> str:
    """What stands raised after a value, without its footnotes."""
    return (_NS if cell.noise else "") + (FLAGS[cell.flag][0] if cell.flag else "")


def _width(table: Table, rows: Sequence[int], column: int) -> int:
    """Characters that a column needs; a footnote's mark takes two more."""
    cells = [table.cells[i][column] for i in rows]
    texts = [len(c.text) + len(_marks(c)) + (2 if c.notes else 0) for c in cells]
    details = [len(c.detail) for c in cells]
    return max([*texts, *details, *map(len, _header(table.columns[column]))], default=1)


def _recipe_width(table: Table, rows: Sequence[int], width: int) -> int:
    """Characters of the first column: its longest word, if that leaves room for the figures."""
    places = [*grouping(table), place_of(table, Kind.RECIPE)]
    texts = [terminal(table.cells[i][j].text) for i in rows for j in places]
    words = [len(word) for text in texts for word in text.replace("+", " ").split()]
    return max(_RECIPE, min(max(words, default=0) + 1, width // 3))


def _fitting(table: Table, rows: Sequence[int], width: int) -> tuple[list[int], int]:
    """The columns that fit into ``width``, in their order, and the space between them."""
    numeric = [i for i, c in enumerate(table.columns) if c.numeric]
    widths = {i: _width(table, rows, i) for i in numeric}
    if sum(widths.values()) + 2 * len(numeric) <= width:
        return numeric, 1
    room, chosen = width - 1, set[int]()
    for index in sorted(numeric, key=lambda i: table.columns[i].rank):
        if widths[index] + 1 <= room:
            chosen.add(index)
            room -= widths[index] + 1
    return [i for i in numeric if i in chosen], 0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _raised(cell: Cell, row: int, notes: Notes) -> str:
    """Marks and footnotes of a cell."""
    numbers = dict.fromkeys(notes.marks[row, n] for n in cell.notes)
    parts = [*([marks] if (marks := _marks(cell)) else []), *map(superscript, numbers)]
    return "·".join(parts) if len(numbers) > 1 else "".join(parts)


def _text(cell: Cell, row: int, notes: Notes) -> Text:
    from rich.text import Text

    text = Text().append(terminal(cell.text), style="bold green" if cell.best else "")
    text.append(_raised(cell, row, notes), style="yellow")
    return text.append(f"\n{terminal(cell.detail)}", style="dim") if cell.detail else text
