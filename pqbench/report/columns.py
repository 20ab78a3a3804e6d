"""What a table shows: a column is one object, and every format is made from the list of them.

To add a column, write one :class:`~pqbench.report.column.Column` and put it into
:func:`summary_columns`: the terminal, Markdown, CSV, LaTeX and the page follow. (The idea is that
of inspect_ai's data frame columns.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pqbench.report import footnotes
from pqbench.report.column import LAST, Column, Contest, Kind
from pqbench.report.footnotes import batch_field
from pqbench.report.rows import Estimate, Row, batch_sizes, metric_name


def of_model(row: Row) -> tuple[str, ...]:
    """Rows of one model on one data set in one environment."""
    return (row.model, row.dataset, row.machine)


def of_backend(row: Row) -> tuple[str, ...]:
    """Of these, the rows of one backend: they are paired with the same baseline."""
    return (*of_model(row), row.backend)


def _places(rows: Sequence[Row]) -> list[Column]:
    """Model, backend and what else groups these rows, and the recipe."""
    several_data = len({row.dataset for row in rows}) > 1
    several_machines = len({row.machine for row in rows}) > 1

    def group(name: str, title: str, value: Callable[[Row], str]) -> Column:
        return Column(name, title, value, kind=Kind.GROUP, rank=0)

    model = Column(
        "model", "model", lambda r: r.model, kind=Kind.GROUP, rank=0,
        plain=lambda r: r.record.experiment.model,
    )  # fmt: skip
    recipe = Column(
        "recipe", "recipe", lambda r: r.recipe, kind=Kind.RECIPE, rank=0,
        notes=lambda r: r.notes,
    )  # fmt: skip
    return [
        model,
        *([_dataset()] if several_data else []),
        group("backend", "backend", lambda r: r.backend),
        *([group("machine", "machine", lambda r: r.machine)] if several_machines else []),
        recipe,
    ]


def _dataset() -> Column:
    return Column(
        "dataset", "data set", lambda r: r.dataset, kind=Kind.GROUP, rank=0,
        plain=lambda r: f"{r.record.experiment.dataset} {r.record.experiment.split}",
    )  # fmt: skip


def _status() -> Column:
    return Column(
        "status", "status", lambda r: r.status, kind=Kind.STATUS, rank=0,
        notes=lambda r: footnotes.failure(r.record),
    )  # fmt: skip


def _score(rows: Sequence[Row], rank: int) -> Column:
    return Column(
        "score_pct", metric_name(rows), lambda r: r.score_pct, "%", interval=True,
        decimals=_accuracy_decimals(rows), reasons=("accuracy",), rank=rank,
        notes=_other_metric(rows), contest=Contest(of_model, True, ratio=False),
    )  # fmt: skip


def _drop(rows: Sequence[Row]) -> Column:
    return Column(
        "drop_pt", "drop", lambda r: r.drop_pt, "pt", interval=True,
        decimals=_accuracy_decimals(rows), reasons=("accuracy.against_baseline",), rank=2,
        notes=_other_metric(rows), contest=Contest(of_backend, False, ratio=False),
        legend="Drop: baseline minus candidate, on the same samples.",
    )  # fmt: skip


def _clean(rows: Sequence[Row]) -> list[Column]:
    if all(row.clean_pct is None for row in rows):
        return []
    digits = _accuracy_decimals(rows)
    return [
        Column(
            "clean_pct", metric_name(rows), lambda r: r.clean_pct, "%", "clean", interval=True,
            decimals=digits, rank=2, legend="Clean: on the images that no pretraining saw.",
        ),
        Column(
            "clean_drop_pt", "drop", lambda r: r.clean_drop_pt, "pt", "clean", interval=True,
            decimals=digits, rank=11,
        ),
    ]  # fmt: skip


_LATENCY = (
    "Latency: the baseline's median divided by the speedup, so that the rows of a backend share "
    "one measurement."
)


def _p50(size: int, rank: int) -> Column:
    name = batch_field("p50_ms", size)
    return Column(
        name, "p50", lambda r: r.latency_ms.get(size), "ms", f"batch {size}", interval=True,
        reasons=("latency",), rank=rank, contest=_fastest(size), legend=_LATENCY,
        notes=lambda r: r.latency_notes.get(size, ()),
    )  # fmt: skip


def _per_sample(size: int, rank: int) -> Column:
    name = batch_field("ms_per_sample", size)

    def value(row: Row) -> Estimate | None:
        whole = row.latency_ms.get(size)
        return None if whole is None else whole.scaled(1 / size)

    return Column(
        name, "per sample", value, "ms", f"batch {size}", interval=True, rank=rank,
        contest=_fastest(size), legend=_LATENCY, notes=lambda r: r.latency_notes.get(size, ()),
    )  # fmt: skip


def _fastest(size: int) -> Contest:
    """Decided by the paired ratios: medians of different runs do not compete."""
    return Contest(of_backend, True, by=lambda r: r.paired(size))


def _speedup(size: int, rank: int) -> Column:
    return Column(
        batch_field("speedup", size), "speedup", lambda r: r.speedups.get(size), "x",
        f"batch {size}", interval=True, decimals=lambda _: 2, reasons=("speedup",), rank=rank,
        notes=lambda r: footnotes.slow(r.record, size),
        contest=Contest(of_backend, True, beats_baseline=True),
        legend="Speedup: against the same backend's baseline, both in turns.",
    )  # fmt: skip


def _ratio(row: Row) -> str:
    ratio = row.record.size.file_ratio
    return "" if ratio is None else f"{ratio:.2f}"


def _by_macs(row: Row) -> str:
    share = row.int8_macs_pct
    return "" if share is None else f"{share:.0f} %"


def _resources() -> list[Column]:
    return [
        Column(
            "size_mb", "size", lambda r: r.size_mb, "MiB", detail=_ratio, detail_title="ratio",
            reasons=("size.file_bytes", "size"), rank=3, contest=Contest(of_model, False),
        ),
        _rss(7),
        Column(
            "int8_pct", "INT8", lambda r: r.int8_pct, "%", decimals=lambda _: 0, rank=8,
            detail=_by_macs, detail_title="by MACs",
            reasons=("placement.int8_share", "placement.integer", "placement"),
            notes=lambda r: footnotes.low_int8(r.record),
            legend="INT8: share of convolutions and matrix products run as integer kernels, by "
            "count and by multiply-accumulates.",
        ),
    ]  # fmt: skip


def _rss(rank: int) -> Column:
    return Column(
        "rss_peak_mb", "RSS", lambda r: r.record.memory.rss_peak_mb, "MiB", decimals=lambda _: 0,
        reasons=("memory.rss_peak_mb", "memory"), rank=rank,
        legend="RSS: peak of the whole process.",
    )  # fmt: skip


def _vram(rank: int = LAST) -> Column:
    return Column(
        "vram_mb", "VRAM", lambda r: r.record.memory.vram_driver_mb, "MiB", decimals=lambda _: 0,
        rank=rank, legend="VRAM: of the process, by the driver.",
    )  # fmt: skip


def summary_columns(rows: Sequence[Row]) -> list[Column]:
    """The summary: accuracy, latency, speedup, size, at the smallest and the largest batch."""
    sizes = batch_sizes(rows) or [1]
    first, last = sizes[0], sizes[-1]
    several = first != last
    return [
        *_places(rows),
        _score(rows, 5),
        _drop(rows),
        *_clean(rows),
        _p50(first, 4),
        *([_per_sample(last, 9)] if several else []),
        _speedup(first, 1),
        *([_speedup(last, 6)] if several else []),
        *_resources(),
        _status(),
    ]


def batch_columns(rows: Sequence[Row]) -> list[Column]:
    """Technique by batch size: latency per sample, memory and accuracy, as papers print them."""
    sizes = batch_sizes(rows)
    ends = {size: 1 + (i > 0) for i, size in enumerate([*sizes[:1], *sizes[-1:]])}
    any_vram = any(row.record.memory.vram_driver_mb is not None for row in rows)
    return [
        *_places(rows),
        *(_per_sample(size, ends.get(size, 10 + i)) for i, size in enumerate(sizes)),
        _rss(5),
        *([_vram(4)] if any_vram else []),
        _score(rows, 3),
        _status(),
    ]


def csv_columns(rows: Sequence[Row]) -> list[Column]:
    """What a CSV file has beside the summary: the rest that belongs to an experiment."""
    sizes = batch_sizes(rows)
    places = [
        _dataset(),
        Column("machine", "machine", lambda r: r.machine),
    ]
    more = [
        Column("metric", "metric", lambda r: r.metric),
        Column("count", "samples", lambda r: r.count),
        Column("top1_pct", "top-1", lambda r: r.top1_pct, "%", interval=True),
        Column("drop_p", "p", lambda r: r.drop_p),
        Column("size_ratio", "size ratio", lambda r: r.record.size.file_ratio),
        Column(
            "int8_macs_pct",
            "INT8 by MACs",
            lambda r: r.int8_macs_pct,
            "%",
            reasons=("placement.int8_macs_share", "placement.int8_share", "placement"),
        ),
        _vram(),
        *(_own_p50(size) for size in dict.fromkeys([*sizes[:1], *sizes[-1:]])),
        Column("created", "measured", lambda r: r.record.created),
        Column("fingerprint", "fingerprint", lambda r: r.record.fingerprint),
    ]
    return [*places, *more]


def _own_p50(size: int) -> Column:
    """The median of the experiment's own calls, which no other row is paired with."""
    return Column(
        batch_field("own_p50_ms", size), "own p50", lambda r: r.own_ms.get(size), "ms",
        f"batch {size}", interval=True,
    )  # fmt: skip


def _accuracy_decimals(rows: Sequence[Row]) -> Callable[[float], int]:
    few = max((row.count or 0 for row in rows), default=0) < 2000
    return lambda _: 1 if few else 2


def _other_metric(rows: Sequence[Row]) -> Callable[[Row], tuple[str, ...]]:
    """Where metrics of several tasks meet, the less usual one is named."""
    mixed = len({row.metric for row in rows if row.score_pct is not None}) > 1

    def notes(row: Row) -> tuple[str, ...]:
        return (f"{metric_name([row])}, not top-1",) if mixed and row.metric != "top1" else ()

    return notes
