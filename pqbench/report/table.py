"""One table for all readers: every cell is formatted here, once; ``render`` only decorates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pqbench.core.record import METRIC_NAMES, Record
from pqbench.report.footnotes import batch_field
from pqbench.report.rows import (
    Estimate,
    Row,
    batch_range,
    make_rows,
    metric_name,
)
from pqbench.report.significance import NOISE, beats_all, compare_with_baselines

NONE = "\u2013"  # an en dash
LEGEND = (
    "Low…high: 95 % interval. Drop: baseline minus candidate, the same samples paired. "
    "Speedup: against the same backend's baseline, from alternating blocks. "
    "ns: no difference from the baseline shown (Holm's correction over all comparisons). "
    "Bold: best of its model beyond all intervals (speedup: of its backend). "
    "Size ratio: of the baseline. RSS: peak of the whole process. "
    "INT8: share of convolutions and matrix products that ran as integer kernels."
)

CLEAN_LEGEND = "Clean: on the images that no pretraining saw. "

BATCH_LEGEND = (
    "Low…high: 95 % interval of the median. Bold: best of its model and column beyond all "
    "intervals. RSS: peak of the whole process."
)


@dataclass(frozen=True)
class Cell:
    """A formatted cell.

    Attributes:
        text: The value.
        detail: Its interval or ratio; may be empty.
        best: Beyond the intervals of all it competes with.
        notes: Numbers of its footnotes.
        noise: No difference from the baseline is shown.
    """

    text: str
    detail: str = ""
    best: bool = False
    notes: tuple[int, ...] = ()
    noise: bool = False


@dataclass(frozen=True)
class Column:
    """A column: which field of a row, its header with the unit, its batch size if any."""

    name: str
    header: str
    numeric: bool = True
    batch: int | None = None


@dataclass(frozen=True)
class Table:
    """Formatted cells, with the rows that they came from.

    Attributes:
        columns: What is shown.
        rows: One per line of ``cells``.
        cells: The text of every line.
        footnotes: In order of their numbers, from 1.
        legend: How to read it.
        name: ``summary`` or ``batches``.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    cells: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...]
    legend: str = LEGEND
    name: str = "summary"


def make_table(records: Sequence[Record]) -> Table:
    """The summary: accuracy, latency, speedup, size; no result stays as a marked row."""
    return summary_table(make_rows(records), batch_range(records))


def make_batch_table(records: Sequence[Record]) -> Table:
    """Technique by batch size: latency per sample, memory and accuracy, as papers print them."""
    return batch_table(make_rows(records))


def summary_table(rows: Sequence[Row], batches: tuple[int, int] | None) -> Table:
    """The summary of rows that were made already."""
    first, last = batches or (1, 1)
    noise = {
        (c.row, name)
        for c in compare_with_baselines(rows)
        for name in _summary_names(c.name, first, last)
        if c.verdict == NOISE
    }
    clean = CLEAN_LEGEND if any(row.clean_pct is not None for row in rows) else ""
    return _table(rows, _columns(rows, batches), noise, clean + LEGEND, "summary")


def batch_table(rows: Sequence[Row]) -> Table:
    """Technique by batch size, of rows that were made already."""
    sizes = sorted({size for row in rows for size in row.per_sample_ms})
    many_datasets = len({row.dataset for row in rows}) > 1
    many_machines = len({row.machine for row in rows}) > 1
    columns = [
        (True, Column("model", "model", numeric=False)),
        (many_datasets, Column("dataset", "data set", numeric=False)),
        (True, Column("backend", "backend", numeric=False)),
        (many_machines, Column("machine", "machine", numeric=False)),
        (True, Column("recipe", "recipe", numeric=False)),
        *(
            (True, Column(batch_field("sample_ms", b), f"per sample [ms], batch {b}", batch=b))
            for b in sizes
        ),
        (True, Column("rss_peak_mb", "RSS [MiB]")),
        (any(row.vram_mb is not None for row in rows), Column("vram_mb", "VRAM [MiB]")),
        (True, Column("score_pct", f"{metric_name(rows)} [%]")),
        (True, Column("status", "status", numeric=False)),
    ]
    shown = tuple(column for wanted, column in columns if wanted)
    vram = " VRAM: of the process, by the driver." if any(r.vram_mb for r in rows) else ""
    return _table(rows, shown, set(), BATCH_LEGEND + vram, "batches")


def _summary_names(name: str, first: int, last: int) -> tuple[str, ...]:
    """The summary's columns for a comparison."""
    ends = (("speedup_first", first), ("speedup_last", last))
    return (
        ("drop_pt",)
        if name == "drop_pt"
        else tuple(column for column, size in ends if name == batch_field("speedup", size))
    )


def _table(
    rows: Sequence[Row],
    columns: tuple[Column, ...],
    noise: set[tuple[int, str]],
    legend: str,
    name: str,
) -> Table:
    numbers: dict[str, int] = {}
    mixed = len({row.metric for row in rows if row.score_pct is not None}) > 1
    everywhere = common_notes(rows)
    best = {c.name: _best(rows, c.name, *rule) for c in columns if (rule := _competition(c.name))}
    decimals = 1 if max((row.count or 0 for row in rows), default=0) < 2000 else 2
    cells = []
    for index, row in enumerate(rows):
        line = []
        for column in columns:
            notes = tuple(
                dict.fromkeys(
                    numbers.setdefault(text, len(numbers) + 1)
                    for text in _notes(row, column.name, mixed)
                    if text not in everywhere
                )
            )
            text, detail = format_value(row, column.name, decimals)
            shown = (index, column.name) in noise
            won = index in best.get(column.name, ())
            if shown and column.name.startswith("speedup"):
                won = False  # not even faster than the baseline, for all that is known
            line.append(Cell(text, detail, won, notes, shown))
        cells.append(tuple(line))
    if everywhere:
        legend = f"All experiments: {'; '.join(everywhere)}. {legend}"
    return Table(columns, tuple(rows), tuple(cells), tuple(numbers), legend, name)


def _notes(row: Row, name: str, mixed: bool) -> tuple[str, ...]:
    """Footnotes of a cell; where metrics of several tasks meet, the less usual one is named."""
    notes = row.marks.get(name, ())
    if mixed and row.metric != "top1" and name in _DIFFERENCES and value_of(row, name) is not None:
        return (f"{METRIC_NAMES.get(row.metric, row.metric)}, not top-1", *notes)
    return notes


def common_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Notes that every experiment with a result has: said once, not on each line."""
    notes = [row.marks.get("recipe", ()) for row in rows if row.status == "ok"]
    if len(notes) < 2:
        return ()
    return tuple(text for text in notes[0] if all(text in others for others in notes[1:]))


def value_of(row: Row, name: str) -> object:
    """A row's figure by the name of its column; at a batch size too."""
    field, _, size = name.rpartition("_b")
    if size.isdigit():
        by_size = row.per_sample_ms if field == "sample_ms" else row.speedups
        return by_size.get(int(size))
    return getattr(row, name)


def _columns(rows: Sequence[Row], batches: tuple[int, int] | None) -> tuple[Column, ...]:
    """All columns that these rows need."""
    first, last = batches or (1, 1)
    several = first != last
    clean = any(row.clean_pct is not None for row in rows)
    many_datasets = len({row.dataset for row in rows}) > 1
    many_machines = len({row.machine for row in rows}) > 1
    columns = [
        (True, Column("model", "model", numeric=False)),
        (many_datasets, Column("dataset", "data set", numeric=False)),
        (True, Column("backend", "backend", numeric=False)),
        (many_machines, Column("machine", "machine", numeric=False)),
        (True, Column("recipe", "recipe", numeric=False)),
        (True, Column("score_pct", f"{metric_name(rows)} [%]")),
        (True, Column("drop_pt", "drop [pt]")),
        (clean, Column("clean_pct", f"{metric_name(rows)} [%], clean")),
        (clean, Column("clean_drop_pt", "drop [pt], clean")),
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
    value = value_of(row, name)
    if value is None:
        return NONE, ""
    if isinstance(value, Estimate):
        decimals = accuracy_decimals
        if name.startswith("speedup"):
            decimals = 2
        elif "_ms" in name:
            decimals = _three_digits(value.value)
        low, high = (f"{_zero(end, decimals):.{decimals}f}" for end in (value.low, value.high))
        return f"{_zero(value.value, decimals):.{decimals}f}", f"{low}…{high}"
    if name == "size_mb" and isinstance(value, float):
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


_DIFFERENCES = ("drop_pt", "score_pct")  # compared by difference, all else by ratio
_COMPETITIONS: dict[str, tuple[_Key, bool]] = {  # field: who competes, whether more is better
    "score_pct": (_of_model, True),
    "drop_pt": (_of_backend, False),
    "p50_ms": (_of_model, False),
    "sample_ms": (_of_model, False),
    "speedup_first": (_of_backend, True),
    "speedup_last": (_of_backend, True),
    "size_mb": (_of_model, False),
}


def _competition(name: str) -> tuple[_Key, bool] | None:
    return _COMPETITIONS.get("sample_ms" if name.startswith("sample_ms_b") else name)


def _best(rows: Sequence[Row], name: str, group: _Key, more_is_better: bool) -> set[int]:
    """Rows that beat every competitor beyond both intervals and after Holm's correction.

    A lone row wins nothing.
    """
    sign = 1 if more_is_better else -1
    groups: dict[tuple[str, ...], list[tuple[float, float, int, Estimate]]] = defaultdict(list)
    for index, row in enumerate(rows):
        value = value_of(row, name) if row.status == "ok" else None
        if isinstance(value, float | int):
            value = Estimate(value, value, value)
        if not isinstance(value, Estimate):
            continue
        low, high = sorted((sign * value.low, sign * value.high))
        groups[group(row)].append((low, high, index, value))
    winners = set()
    for entries in groups.values():
        low, _, index, value = max(entries, key=lambda entry: (entry[0], entry[1], entry[2]))
        others = [entry for entry in entries if entry[2] != index]
        if (
            others
            and low > max(entry[1] for entry in others)
            and name not in rows[index].untrusted
            and beats_all(value, [entry[3] for entry in others], ratio=name not in _DIFFERENCES)
        ):
            winners.add(index)
    return winners
