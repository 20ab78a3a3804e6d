"""From records to rows of plain numbers, in the order in which they are read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pqbench.core.record import METRIC_NAMES, Accuracy, Record
from pqbench.report import footnotes
from pqbench.report.anchors import Anchored, anchored
from pqbench.report.claims import faults_of
from pqbench.report.environments import environment_keys, environment_labels
from pqbench.report.estimate import Estimate
from pqbench.report.footnotes import batch_field
from pqbench.report.names import dataset_name, model_name

__all__ = ["BASELINE", "MIB", "Estimate", "Row", "make_rows", "ordered"]
MIB = 2**20
BASELINE = "baseline"


@dataclass(frozen=True)
class Row:
    """One experiment, as tables and figures name and compare it.

    What follows from it and is asked for by every table is made once: nothing changes a row.

    Attributes:
        record: What came out of it.
        model: Display name of the model.
        dataset: Data set and split.
        backend: Name of the backend.
        recipe: Steps joined by ``+``, or ``baseline``; with the settings that tell it from its
            namesakes in the same table.
        machine: Environment it ran in: figures of two never compete.
        latency_ms: Latency of one call by batch size: the median of the baseline that all rows of
            a backend share, divided by the paired speedup; see :mod:`pqbench.report.anchors`.
        latency_notes: What to know about it, by batch size.
        untrusted: Why a figure must not win, by the name of its column: disturbed or unstable.
        notes: What a reader must know about the whole row.
    """

    record: Record
    model: str
    dataset: str
    backend: str
    recipe: str
    machine: str
    latency_ms: Mapping[int, Estimate] = field(default_factory=dict)
    latency_notes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    untrusted: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``ok`` or why not."""
        return str(self.record.status)

    @property
    def count(self) -> int | None:
        """Samples scored."""
        return self.record.accuracy.count if self.record.accuracy else None

    @property
    def metric(self) -> str:
        """Name of the task's metric, which the drop refers to: ``top1`` or ``miou``."""
        return self.record.accuracy.metric if self.record.accuracy else "top1"

    @cached_property
    def score_pct(self) -> Estimate | None:
        """That metric in percent."""
        accuracy = self.record.accuracy
        return Estimate(*accuracy.primary).scaled(100) if accuracy else None

    @property
    def top1_pct(self) -> Estimate | None:
        """Top-1 in percent; share of right pixels for segmentation."""
        a = self.record.accuracy
        return Estimate(a.top1, a.top1_low, a.top1_high).scaled(100) if a else None

    @property
    def drop_pt(self) -> Estimate | None:
        """Loss of the task's metric against the baseline, in percentage points."""
        return _drop(self.record.accuracy)

    @property
    def drop_p(self) -> float | None:
        """P value of no drop; None where none was tested."""
        return _p_of(self.record.accuracy)

    @property
    def clean_drop_p(self) -> float | None:
        """The same on images that no pretraining saw."""
        return _p_of(self.record.accuracy_clean)

    @cached_property
    def faults(self) -> tuple[str, ...]:
        """Why the model must never win: it answers one class, or lost one."""
        return faults_of(self.record)

    @property
    def clean_pct(self) -> Estimate | None:
        """The metric in percent on images that no pretraining saw, where some were seen."""
        clean = self.record.accuracy_clean
        return Estimate(*clean.primary).scaled(100) if clean else None

    @property
    def clean_drop_pt(self) -> Estimate | None:
        """Loss of the metric on them, in percentage points."""
        return _drop(self.record.accuracy_clean)

    @cached_property
    def speedups(self) -> dict[int, Estimate]:
        """Against the baseline, by batch size, from alternating blocks."""
        return {
            x.batch_size: Estimate(x.ratio, x.low, x.high, max(len(x.start_ratios) - 1, 0))
            for x in self.record.speedup
        }

    @property
    def own_ms(self) -> dict[int, Estimate]:
        """Median of the experiment's own calls by batch size, paired with nothing."""
        return {
            x.batch_size: Estimate(x.p50_ms, x.p50_low_ms, x.p50_high_ms, x.processes - 1)
            for x in self.record.latency
        }

    @cached_property
    def per_sample_ms(self) -> dict[int, Estimate]:
        """``latency_ms`` over the batch size."""
        return {size: value.scaled(1 / size) for size, value in self.latency_ms.items()}

    @property
    def size_mb(self) -> float | None:
        """Size of all files of a deployment, in MiB."""
        size = self.record.size.file_bytes
        return None if size is None else size / MIB

    @property
    def int8_pct(self) -> float | None:
        """Share of quantizable operators that ran as integer kernels, in percent."""
        placement = self.record.placement
        share = placement.int8_share if placement else None
        return None if share is None else 100 * share

    @property
    def int8_macs_pct(self) -> float | None:
        """Share of their multiply-accumulates that ran in integer kernels, in percent."""
        placement = self.record.placement
        share = placement.int8_macs_share if placement else None
        return None if share is None else 100 * share

    def paired(self, batch_size: int) -> Estimate | None:
        """Speedup; 1 for a baseline. What is not paired with its baseline has none."""
        if self.record.is_baseline:
            return Estimate(1.0, 1.0, 1.0) if batch_size in self.latency_ms else None
        return self.speedups.get(batch_size)


def batch_sizes(rows: Iterable[Row]) -> list[int]:
    """Every batch size that was measured, in order."""
    return sorted({x.batch_size for row in rows for x in row.record.latency})


def natural(text: str) -> list[tuple[float, str]]:
    """A key to sort by in which ``seed=2`` comes before ``seed=10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(p), "") if i % 2 else (-1.0, p) for i, p in enumerate(parts)]


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
        return (*keys[index], natural(settings))

    return [records[index] for index in sorted(range(len(records)), key=key)]


def make_rows(records: Sequence[Record]) -> list[Row]:
    """One row per record, in reading order."""
    records = ordered(records)
    names = recipe_labels(records)
    places = environment_labels(records)
    rows = []
    for record, name, place, latency in zip(
        records, names, places, anchored(records, places), strict=True
    ):
        e = record.experiment
        row = Row(
            record,
            model_name(e.model),
            f"{dataset_name(e.dataset)} {e.split}",
            e.backend,
            name,
            place,
            latency_ms=latency.values,
            latency_notes=latency.notes,
            untrusted=_untrusted(record, latency),
            notes=(*faults_of(record), *record.notes, *latency.row_notes),
        )
        rows.append(row)
    return rows


def _untrusted(record: Record, latency: Anchored) -> dict[str, str]:
    """Why a figure must not win, by the name of its column."""
    found = {}
    for size in latency.values:
        ratio = footnotes.disturbed(record, size)
        why = ratio or latency.unstable.get(size, "")
        for name in ("p50_ms", "ms_per_sample"):
            found[batch_field(name, size)] = why
        found[batch_field("speedup", size)] = ratio
    return {name: why for name, why in found.items() if why}


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
        names = _short_names(differing, settings)
        for i, values in zip(indices, settings, strict=True):
            shown = ", ".join(f"{name}={values.get(k)}" for k, name in names.items())
            labels[i] += f" ({shown})" if shown else ""
    return labels


def _short_names(keys: Sequence[str], settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Short names of these keys; one that always equals a namesake is left out.

    The seed of ``fit`` follows the experiment's, so it says nothing more.
    """
    columns = {(k.rpartition(".")[2], *(s.get(k) for s in settings)): k for k in reversed(keys)}
    kept = [k for k in keys if k in columns.values()]
    short = Counter(k.rpartition(".")[2] for k in kept)
    return {k: last if short[last := k.rpartition(".")[2]] == 1 else k for k in kept}


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


def _drop(accuracy: Accuracy | None) -> Estimate | None:
    against = accuracy.against_baseline if accuracy else None
    if against is None:
        return None
    return Estimate(against.drop_pt, against.drop_low_pt, against.drop_high_pt)


def _p_of(accuracy: Accuracy | None) -> float | None:
    against = accuracy.against_baseline if accuracy else None
    if against is None:
        return None
    return against.mcnemar_p if against.p is None else against.p


def metric_name(rows: Iterable[Row]) -> str:
    """The metric of these rows as a header names it: one, or the word for several."""
    metrics = {row.metric for row in rows if row.score_pct is not None} or {"top1"}
    return METRIC_NAMES.get(metrics.pop(), "accuracy") if len(metrics) == 1 else "accuracy"
