"""One table for all readers: every cell is formatted here, once; the formats only decorate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pqbench.core.record import Record
from pqbench.report.between_runs import level_note
from pqbench.report.column import Column, Contest, Kind, Value
from pqbench.report.columns import batch_columns, csv_columns, summary_columns
from pqbench.report.rows import Estimate, Row, make_rows
from pqbench.report.significance import (
    BETTER,
    NOISE,
    TOO_FEW,
    Comparison,
    beats_all,
    compare_with_baselines,
)

NONE = "\u2013"  # an en dash
UNSTABLE, DISTURBED = "unstable", "disturbed"
FLAGS = {  # raised after a figure: its sign, and what it means
    UNSTABLE: ("~", "unstable, known less well than its protocol asks for"),
    DISTURBED: ("!", "disturbed, too few blocks free of other load: do not trust it"),
}
NS = "ns", "no difference from the baseline shown (Holm's correction over all comparisons)"
_INTERVAL = "Low…high: 95 % interval."
_BOLD = "Bold: best of its model (drop, latency, speedup: of its backend) beyond the noise."


@dataclass(frozen=True)
class Cell:
    """A formatted cell.

    Attributes:
        text: The value.
        detail: Its interval or ratio; may be empty.
        best: Beyond the intervals of all it competes with.
        notes: Numbers of its footnotes.
        noise: No difference from the baseline is shown.
        flag: ``unstable``, ``disturbed`` or empty: why not to trust it.
        why: The flag in full.
    """

    text: str
    detail: str = ""
    best: bool = False
    notes: tuple[int, ...] = ()
    noise: bool = False
    flag: str = ""
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Formatted cells, with the rows that they came from.

    Attributes:
        columns: What is shown.
        rows: One per line of ``cells``.
        cells: The text of every line.
        footnotes: In order of their numbers, from 1.
        legend: How to read it, sentence by sentence, and what is true of all rows.
        name: ``summary`` or ``batches``.
        more: Further columns, for CSV alone.
        everywhere: Notes of all experiments.
        level: That the machine's own speed changed meanwhile; empty if it did not.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...]
    legend: str
    name: str = "summary"
    more: tuple[Column, ...] = ()
    everywhere: tuple[str, ...] = ()
    level: str = ""

    def legend_of(self, shown: Sequence[int]) -> str:
        """The legend where only these columns are shown, by their places."""
        lines = [[line[i] for i in shown] for line in self.cells]
        return _legend([self.columns[i] for i in shown], lines, self.everywhere, self.level)


def make_table(records: Sequence[Record]) -> Table:
    """The summary: accuracy, latency, speedup, size; no result stays as a marked row."""
    return summary_table(make_rows(records))


def make_batch_table(records: Sequence[Record]) -> Table:
    """Technique by batch size: latency per sample, memory and accuracy, as papers print them."""
    return batch_table(make_rows(records))


def summary_table(rows: Sequence[Row], judged: Sequence[Comparison] | None = None) -> Table:
    """The summary of rows that were made, and perhaps judged, already."""
    return build(rows, summary_columns(rows), "summary", csv_columns(rows), judged)


def batch_table(rows: Sequence[Row], judged: Sequence[Comparison] | None = None) -> Table:
    """Technique by batch size, of rows that were made, and perhaps judged, already."""
    return build(rows, batch_columns(rows), "batches", (), judged)


def build(
    rows: Sequence[Row],
    columns: Sequence[Column],
    name: str,
    more: Sequence[Column] = (),
    judged: Sequence[Comparison] | None = None,
) -> Table:
    """The cells of these columns, with footnotes, marks and bold print.

    Args:
        rows: In reading order.
        columns: What is shown.
        name: Of the table.
        more: Columns for CSV alone; what is shown already is dropped.
        judged: The rows' comparisons with their baselines, where they were made already.
    """
    numbers: dict[str, int] = {}
    everywhere = common_notes(rows)
    judged = compare_with_baselines(rows) if judged is None else judged
    noise = {(c.row, c.name) for c in judged if c.verdict in (NOISE, TOO_FEW)}
    better = {(c.row, c.name) for c in judged if c.verdict == BETTER}
    best = {c.name: _best(rows, c, c.contest, better) for c in columns if c.contest}
    lines = []
    for index, row in enumerate(rows):
        line = []
        for column in columns:
            value = column.value(row)
            notes = [n for n in _notes(row, column, value) if n not in everywhere]
            why = row.untrusted.get(column.name, "") if value is not None else ""
            text, detail = shown(column, row, value)
            line.append(
                Cell(
                    text,
                    detail,
                    index in best.get(column.name, ()),
                    tuple(dict.fromkeys(numbers.setdefault(n, len(numbers) + 1) for n in notes)),
                    (index, column.name) in noise,
                    (DISTURBED if why.startswith(DISTURBED) else UNSTABLE) if why else "",
                    why,
                )
            )
        lines.append(tuple(line))
    known = {c.name for c in columns}
    level = level_note([row.record for row in rows])
    return Table(
        tuple(columns),
        tuple(rows),
        tuple(lines),
        tuple(numbers),
        _legend(columns, lines, everywhere, level),
        name,
        tuple(c for c in more if c.name not in known),
        everywhere,
        level,
    )


def _notes(row: Row, column: Column, value: Value) -> list[str]:
    """A cell's footnotes; why it is empty comes first."""
    notes = list(column.notes(row)) if value is not None or column.kind is not Kind.NUMBER else []
    reason = column.reason(row) if value is None and row.record.ok else None
    return [*([reason] if reason else []), *notes]


def common_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Notes that every experiment with a result has: said once, not on each line."""
    notes = [row.notes for row in rows if row.status == "ok"]
    if len(notes) < 2:
        return ()
    return tuple(text for text in notes[0] if all(text in others for others in notes[1:]))


def shown(column: Column, row: Row, value: Value) -> tuple[str, str]:
    """The text of a cell and its detail. The only place where numbers become text."""
    if value is None:
        return NONE, ""
    if isinstance(value, Estimate):
        decimals = column.decimals(value.value)
        low, high = (
            f"{round(end, decimals) + 0.0:.{decimals}f}" for end in (value.low, value.high)
        )
        return column.text(value.value), f"{low}…{high}"
    text = value if isinstance(value, str) else column.text(value)
    return text, column.detail(row)


def _legend(
    columns: Sequence[Column],
    lines: Sequence[Sequence[Cell]],
    everywhere: Sequence[str],
    level: str,
) -> str:
    """How to read what is there, and nothing else."""
    cells = [cell for line in lines for cell in line]
    used = {cell.flag for cell in cells}
    sentences = [
        *([f"All experiments: {'; '.join(everywhere)}."] if everywhere else []),
        *([_INTERVAL] if any("…" in cell.detail for cell in cells) else []),
        *([_BOLD] if any(cell.best for cell in cells) else []),
        *([f"{NS[0]}: {NS[1]}."] if any(cell.noise for cell in cells) else []),
        *(f"{sign}: {words}." for flag, (sign, words) in FLAGS.items() if flag in used),
        *dict.fromkeys(column.legend for column in columns if column.legend),
        *([level] if level and any(column.name.startswith("p50_ms") for column in columns) else []),
    ]
    return " ".join(sentences)


def _best(
    rows: Sequence[Row], column: Column, contest: Contest, better: Collection[tuple[int, str]]
) -> set[int]:
    """Rows that beat every competitor beyond both intervals and after Holm's correction.

    A lone row wins nothing.
    """
    sign = 1 if contest.more_is_better else -1
    groups: dict[tuple[str, ...], list[tuple[float, float, int, Estimate]]] = defaultdict(list)
    for index, row in enumerate(rows):
        value = _contender(row, column, contest)
        if value is not None:
            low, high = sorted((sign * value.low, sign * value.high))
            groups[contest.within(row)].append((low, high, index, value))
    winners = set()
    for entries in groups.values():
        low, _, index, value = max(entries, key=lambda entry: (entry[0], entry[1], entry[2]))
        others = [entry for entry in entries if entry[2] != index]
        if (
            others
            and low > max(entry[1] for entry in others)
            and column.name not in rows[index].untrusted
            and (not contest.beats_baseline or (index, column.name) in better)
            and beats_all(value, [entry[3] for entry in others], ratio=contest.ratio)
        ):
            winners.add(index)
    return winners


def _contender(row: Row, column: Column, contest: Contest) -> Estimate | None:
    """The figure by which a row competes; None where it does not."""
    value = contest.by(row) if contest.by else column.value(row)
    if row.status != "ok" or row.faults or value is None or isinstance(value, str):
        return None
    return value if isinstance(value, Estimate) else Estimate(value, value, value)


def values_by_name(table: Table, row: int) -> Mapping[str, Cell]:
    """The cells of a line by the names of their columns."""
    return {c.name: cell for c, cell in zip(table.columns, table.cells[row], strict=True)}
