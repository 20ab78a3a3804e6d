"""From records to rows of plain numbers, in the order in which they are read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pqbench.core.record import METRIC_NAMES, Accuracy, Latency, Record, Speedup
from pqbench.report.environments import environment_keys, environment_labels
from pqbench.report.footnotes import batch_field, footnotes

MIB = 2**20
BASELINE = "baseline"


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """All three times ``factor``, which is above 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Row:
    """One experiment.

    Attributes:
        model: Name of the model.
        dataset: Data set and split.
        backend: Name of the backend.
        recipe: Steps joined by ``+``, or ``baseline``; with the settings that tell it from its
            namesakes in the same table.
        machine: Environment it ran in: figures of two never compete.
        status: ``ok`` or why not.
        count: Samples scored.
        top1_pct: Top-1 in percent; share of right pixels for segmentation.
        drop_pt: Loss of the task's metric against the baseline, in percentage points.
        p50_ms: Median latency at the table's smallest batch.
        sample_ms: Median latency per sample at the table's largest batch.
        speedup_first: Against the baseline, at the smallest batch.
        speedup_last: Against the baseline, at the largest batch.
        size_mb: Size of all files of a deployment, in MiB.
        size_ratio: Of the baseline's size.
        rss_peak_mb: Peak resident memory of the process, in MiB.
        int8_pct: Share of quantizable operators that ran as integer kernels, in percent.
        vram_mb: GPU memory of the process by the driver, in MiB.
        mcnemar_p: Of the accuracy against the baseline's.
        metric: Name of the task's metric, which the drop refers to: ``top1`` or ``miou``.
        score_pct: That metric in percent.
        clean_pct: The same on images that no pretraining saw, where the scored split holds some
            that it did.
        clean_drop_pt: Loss of the metric on them, in percentage points.
        per_sample_ms: Median latency per sample in ms by batch size.
        speedups: Against the baseline, by batch size.
        marks: Footnotes by name of the field that they explain.
        untrusted: Fields that must not win: disturbed or unstable.
    """

    model: str
    dataset: str
    backend: str
    recipe: str
    machine: str
    status: str
    count: int | None
    top1_pct: Estimate | None
    drop_pt: Estimate | None
    p50_ms: Estimate | None
    sample_ms: Estimate | None
    speedup_first: Estimate | None
    speedup_last: Estimate | None
    size_mb: float | None
    size_ratio: float | None
    rss_peak_mb: float | None
    int8_pct: float | None
    vram_mb: float | None = None
    mcnemar_p: float | None = None
    per_sample_ms: Mapping[int, Estimate] = field(default_factory=dict)
    speedups: Mapping[int, Estimate] = field(default_factory=dict)
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    untrusted: frozenset[str] = frozenset()
    metric: str = "top1"
    score_pct: Estimate | None = None
    clean_pct: Estimate | None = None
    clean_drop_pt: Estimate | None = None


def batch_range(records: Iterable[Record]) -> tuple[int, int] | None:
    """Smallest and largest batch size measured anywhere; None if nothing was."""
    sizes = [latency.batch_size for record in records for latency in record.latency]
    return (min(sizes), max(sizes)) if sizes else None


def ordered(records: Iterable[Record]) -> list[Record]:
    """By environment, data set, model, backend; the baseline first, then short recipes."""
    records = list(records)
    labels = environment_labels(records)

    keys = []
    for label, record in zip(labels, records, strict=True):
        e = record.experiment
        place = (label, e.dataset, e.split, e.model, e.backend)
        keys.append((*place, len(e.recipe), e.recipe_name))
    namesakes = Counter(keys)

    def key(index: int) -> tuple[Any, ...]:
        several = namesakes[keys[index]] > 1
        settings = str(sorted(_settings(records[index]).items())) if several else ""
        return (*keys[index], settings)

    return [records[index] for index in sorted(range(len(records)), key=key)]


def make_rows(records: Sequence[Record]) -> list[Row]:
    """One row per record, in reading order."""
    records = ordered(records)
    batches = batch_range(records) or (1, 1)
    labels = recipe_labels(records)
    places = environment_labels(records)
    return [
        _row(record, label, place, *batches)
        for record, label, place in zip(records, labels, places, strict=True)
    ]


def recipe_labels(records: Sequence[Record]) -> list[str]:
    """Names of the recipes; namesakes are told apart by the settings in which they differ."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    places = environment_keys(records)
    for index, record in enumerate(records):
        e = record.experiment
        groups[(places[index], e.model, e.dataset, e.split, e.backend, e.recipe_name)].append(index)
    labels = [BASELINE if r.is_baseline else r.experiment.recipe_name for r in records]
    for indices in groups.values():
        if len(indices) == 1:
            continue
        settings = [_settings(records[i]) for i in indices]
        keys = dict.fromkeys(k for s in settings for k in s)
        differing = [k for k in keys if len({s.get(k) for s in settings}) > 1]
        for i, values in zip(indices, settings, strict=True):
            shown = ", ".join(f"{k.rpartition('.')[2]}={values.get(k)}" for k in differing)
            labels[i] += f" ({shown})" if shown else ""
    return labels


def _settings(record: Record) -> dict[str, str]:
    """What may tell two experiments of one name apart, flat."""
    config = record.config
    nodes = {k: config[k] for k in ("compress", "backend", "fit", "model") if k in config}
    flat = dict(_flatten(nodes, ""))
    flat |= {k: str(config[k]) for k in ("threads", "seed") if k in config}
    flat["weights"] = str(record.experiment.weights)
    return flat


def _flatten(value: Any, prefix: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def _row(record: Record, label: str, place: str, first: int, last: int) -> Row:
    e, accuracy, clean = record.experiment, record.accuracy, record.accuracy_clean
    against = accuracy.against_baseline if accuracy else None
    at_first, at_last = record.latency_at(first), record.latency_at(last)
    gain_first, gain_last = record.speedup_at(first), record.speedup_at(last)
    last_call = _latency(at_last)
    placement, size = record.placement, record.size
    share = placement.int8_share if placement else None
    return Row(
        model=e.model,
        dataset=f"{e.dataset} {e.split}",
        backend=e.backend,
        recipe=label,
        machine=place,
        status=record.status,
        count=accuracy.count if accuracy else None,
        top1_pct=_percent(accuracy.top1, accuracy.top1_low, accuracy.top1_high)
        if accuracy
        else None,
        metric=accuracy.metric if accuracy else "top1",
        score_pct=_percent(*accuracy.primary) if accuracy else None,
        drop_pt=_drop(accuracy),
        clean_pct=_percent(*clean.primary) if clean else None,
        clean_drop_pt=_drop(clean),
        p50_ms=_latency(at_first),
        sample_ms=last_call.scaled(1 / last) if last_call else None,
        speedup_first=_speedup(gain_first),
        speedup_last=_speedup(gain_last),
        size_mb=None if size.file_bytes is None else size.file_bytes / MIB,
        size_ratio=size.file_ratio,
        rss_peak_mb=record.memory.rss_peak_mb,
        int8_pct=None if share is None else 100 * share,
        vram_mb=record.memory.vram_driver_mb,
        mcnemar_p=against.mcnemar_p if against else None,
        per_sample_ms={
            x.batch_size: estimate.scaled(1 / x.batch_size)
            for x in record.latency
            if (estimate := _latency(x)) is not None
        },
        speedups={
            x.batch_size: estimate for x in record.speedup if (estimate := _speedup(x)) is not None
        },
        marks={k: tuple(v) for k, v in footnotes(record, first, last).items()},
        untrusted=frozenset(
            name
            for name, bad in (
                ("p50_ms", at_first and not at_first.stable),
                ("sample_ms", at_last and not at_last.stable),
                ("speedup_first", gain_first and gain_first.disturbed),
                ("speedup_last", gain_last and gain_last.disturbed),
                *((batch_field("sample_ms", x.batch_size), not x.stable) for x in record.latency),
                *((batch_field("speedup", x.batch_size), x.disturbed) for x in record.speedup),
            )
            if bad
        ),
    )


def _drop(accuracy: Accuracy | None) -> Estimate | None:
    against = accuracy.against_baseline if accuracy else None
    if against is None:
        return None
    return Estimate(against.drop_pt, against.drop_low_pt, against.drop_high_pt)


def _percent(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high).scaled(100)


def metric_name(rows: Iterable[Row]) -> str:
    """The metric of these rows as a header names it: one, or the word for several."""
    metrics = {row.metric for row in rows if row.score_pct is not None} or {"top1"}
    return METRIC_NAMES.get(metrics.pop(), "accuracy") if len(metrics) == 1 else "accuracy"


def _latency(latency: Latency | None) -> Estimate | None:
    if latency is None:
        return None
    return Estimate(latency.p50_ms, latency.p50_low_ms, latency.p50_high_ms)


def _speedup(speedup: Speedup | None) -> Estimate | None:
    return Estimate(speedup.ratio, speedup.low, speedup.high) if speedup else None
