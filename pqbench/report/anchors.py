"""Latencies that may be compared: every row of a backend refers to one measurement of its baseline.

Medians of different runs differ by several percent for no reason of the program's: the clock, the
neighbours, the placement of memory. The ratio of candidate and baseline, taken in turns, does not.
So the latency shown is that of the *anchor*, the one record of the baseline, divided by the paired
speedup, with both errors combined on the logarithmic scale. The experiment's own median stays in
``table.csv`` and ``batches.csv``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pqbench.core.record import Record
from pqbench.report import footnotes
from pqbench.report.estimate import Estimate

_DAY_S = 24 * 3600


@dataclass(frozen=True)
class Anchored:
    """The latencies of one record.

    Attributes:
        values: Latency of one call in ms by batch size.
        unstable: Why the anchor's median should not be trusted, by batch size.
        notes: What a reader must know about one, by batch size.
        row_notes: About all of them.
    """

    values: Mapping[int, Estimate]
    unstable: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    row_notes: tuple[str, ...] = ()


def anchored(records: Sequence[Record], places: Sequence[str]) -> list[Anchored]:
    """The latencies of each record.

    Args:
        records: Of which the baselines among them are the anchors.
        places: The environment of each: an anchor serves its own.
    """
    anchors: dict[tuple[str, str], Record] = {}
    stand_ins: dict[tuple[str, str], dict[int, list[float]]] = {}
    for record, place in zip(records, places, strict=True):
        if record.is_baseline and record.ok:
            anchors[place, record.fingerprint] = record
        known = stand_ins.setdefault((place, record.baseline or ""), {})
        for item in record.speedup:
            known.setdefault(item.batch_size, []).append(item.baseline_p50_ms)
    found = []
    for record, place in zip(records, places, strict=True):
        if record.is_baseline:
            found.append(_own(record))
            continue
        key = (place, record.baseline or "")
        found.append(_candidate(record, anchors.get(key), stand_ins[key]))
    return found


def _own(record: Record) -> Anchored:
    """A baseline is its own anchor."""
    return Anchored(
        {x.batch_size: _median(record, x.batch_size) for x in record.latency},
        {x.batch_size: footnotes.unstable(record, x.batch_size) for x in record.latency},
    )


def _median(record: Record, size: int) -> Estimate:
    latency = record.latency_at(size)
    assert latency is not None
    ends = (latency.p50_low_ms, latency.p50_high_ms)
    return Estimate(latency.p50_ms, *ends, latency.processes - 1)


def _candidate(record: Record, anchor: Record | None, timed: Mapping[int, list[float]]) -> Anchored:
    values: dict[int, Estimate] = {}
    unstable: dict[int, str] = {}
    notes: dict[int, tuple[str, ...]] = {}
    for item in record.latency:
        size = item.batch_size
        gain = record.speedup_at(size)
        if gain is None or gain.ratio <= 0:
            values[size] = _median(record, size)
            unstable[size] = footnotes.unstable(record, size)
            notes[size] = ("its own median: not measured in turns with a baseline",)
            continue
        if anchor is not None and anchor.latency_at(size) is not None:
            base = _median(anchor, size)
            unstable[size] = footnotes.unstable(anchor, size)
        else:
            middle = statistics.median(timed[size])  # of the baseline in the candidates' runs
            base = Estimate(middle, middle, middle)
        values[size] = base.divided(
            Estimate(gain.ratio, gain.low, gain.high, max(len(gain.start_ratios) - 1, 0))
        )
    return Anchored(values, unstable, notes, _another_day(record, anchor))


def _another_day(record: Record, anchor: Record | None) -> tuple[str, ...]:
    """That the anchor is from another day than the row."""
    if anchor is None or not record.latency:
        return ()
    try:
        then, now = (datetime.fromisoformat(r.created) for r in (anchor, record))
        apart = abs((now - then).total_seconds())
    except (TypeError, ValueError):
        return ()
    if apart < _DAY_S:
        return ()
    return (
        f"measured {record.created[:10]}, the baseline that its latency refers to "
        f"{anchor.created[:10]}",
    )
