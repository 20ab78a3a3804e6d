"""One table for all readers: every cell is formatted here, once; ``render`` only decorates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pqbench.record import Record
from pqbench.report.rows import Estimate, Row, batch_range, make_rows

NONE = "\u2013"  # an en dash
LEGEND = (
    "Low…high: 95 % interval. Drop: baseline minus candidate, the same samples paired. "
    "Speedup: against the same backend's baseline, from alternating blocks. "
    "Bold: best of its model beyond all intervals (speedup: of its backend). "
    "Size ratio: of the baseline. RSS: peak of the whole process. "
    "INT8: share of convolutions and matrix products that ran as integer kernels."
)


@dataclass(frozen=True)
class Cell:
    """A formatted cell.

    Attributes:
        text: The value.
        detail: Its interval or ratio; may be empty.
        best: Beyond the intervals of all it competes with.
        notes: Numbers of its footnotes.
    """

    text: str
    detail: str = ""
    best: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column: which field of a row, its header with the unit, its batch size if any."""

    name: str
    header: str
    numeric: bool = True
    batch: int | None = None


@dataclass(frozen=True)
class Table:
    """Formatted cells, with the rows that they came from."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...]


def make_table(records: Sequence[Record]) -> Table:
    """Sort, format and annotate; records that are no result stay as marked rows."""
    rows = make_rows(records)
    columns = _columns(rows, batch_range(records))
    numbers: dict[str, int] = {}
    best = {name: _best(rows, name, *rule) for name, rule in _COMPETITIONS.items()}
    shown_1 = max((row.count or 0 for row in rows), default=0) < 2000
    cells = []
    for index, row in enumerate(rows):
        line = []
        for column in columns:
            notes = tuple(
                dict.fromkeys(
                    numbers.setdefault(text, len(numbers) + 1)
                    for text in row.marks.get(column.name, ())
                )
            )
            text, detail = format_value(row, column.name, 1 if shown_1 else 2)
            won = index in best.get(column.name, ())
            line.append(Cell(text, detail, won, notes))
        cells.append(tuple(line))
    return Table(columns, tuple(rows), tuple(cells), tuple(numbers))


def _columns(rows: Sequence[Row], batches: tuple[int, int] | None) -> tuple[Column, ...]:
    """All columns that these rows need."""
    first, last = batches or (1, 1)
    several = first != last
    many_datasets = len({row.dataset for row in rows}) > 1
    many_machines = len({row.machine for row in rows}) > 1
    columns = [
        (True, Column("model", "model", numeric=False)),
        (many_datasets, Column("dataset", "data set", numeric=False)),
        (True, Column("backend", "backend", numeric=False)),
        (many_machines, Column("machine", "machine", numeric=False)),
        (True, Column("recipe", "recipe", numeric=False)),
        (True, Column("top1_pct", "top-1 [%]")),
        (True, Column("drop_pt", "drop [pt]")),
        (True, Column("p50_ms", f"p50 [ms], batch {first}", batch=first)),
        (several, Column("sample_ms", f"per sample [ms], batch {last}", batch=last)),
        (True, Column("speedup_first", f"speedup [x], batch {first}", batch=first)),
        (several, Column("speedup_last", f"speedup [x], batch {last}", batch=last)),
        (True, Column("size_mb", "size [MiB] (ratio)")),
        (True, Column("rss_peak_mb", "RSS [MiB]")),
        (True, Column("int8_pct", "INT8 [%]")),
        (True, Column("status", "status", numeric=False)),
    ]
    return tuple(column for wanted, column in columns if wanted)


def format_value(row: Row, name: str, accuracy_decimals: int) -> tuple[str, str]:
    """The text of a cell and its detail. The only place where numbers become text."""
    value = getattr(row, name)
    if value is None:
        return NONE, ""
    if isinstance(value, Estimate):
        decimals = accuracy_decimals
        if name.startswith("speedup"):
            decimals = 2
        elif name.endswith("_ms"):
            decimals = _three_digits(value.value)
        low, high = (f"{_zero(end, decimals):.{decimals}f}" for end in (value.low, value.high))
        return f"{_zero(value.value, decimals):.{decimals}f}", f"{low}…{high}"
    if name == "size_mb":
        ratio = "" if row.size_ratio is None else f"{row.size_ratio:.2f}"
        return f"{value:.{_three_digits(value)}f}", ratio
    return (f"{value:.0f}" if isinstance(value, float) else str(value)), ""


def _three_digits(value: float) -> int:
    """Decimals that show about three significant digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3


def _zero(value: float, decimals: int) -> float:
    """Rounded, and never minus zero."""
    return round(value, decimals) + 0.0


_Key = Callable[[Row], tuple[str, ...]]


def _of_model(row: Row) -> tuple[str, ...]:
    return (row.model, row.dataset, row.machine)


def _of_backend(row: Row) -> tuple[str, ...]:
    return (row.model, row.dataset, row.machine, row.backend)


_COMPETITIONS: dict[str, tuple[_Key, bool]] = {  # field: who competes, whether more is better
    "top1_pct": (_of_model, True),
    "drop_pt": (_of_backend, False),
    "p50_ms": (_of_model, False),
    "sample_ms": (_of_model, False),
    "speedup_first": (_of_backend, True),
    "speedup_last": (_of_backend, True),
    "size_mb": (_of_model, False),
}


def _best(rows: Sequence[Row], name: str, group: _Key, more_is_better: bool) -> set[int]:
    """Rows that beat every competitor beyond both intervals; a lone row wins nothing."""
    sign = 1 if more_is_better else -1
    groups: dict[tuple[str, ...], list[tuple[float, float, int]]] = defaultdict(list)
    for index, row in enumerate(rows):
        value = getattr(row, name) if row.status == "ok" else None
        if isinstance(value, Estimate):
            ends = sorted((sign * value.low, sign * value.high))
        elif value is not None:
            ends = [sign * value, sign * value]
        else:
            continue
        groups[group(row)].append((ends[0], ends[1], index))
    winners = set()
    for entries in groups.values():
        low, _, index = max(entries)
        others = [high for _, high, other in entries if other != index]
        if others and low > max(others) and name not in rows[index].untrusted:
            winners.add(index)
    return winners
