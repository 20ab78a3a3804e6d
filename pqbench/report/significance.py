"""Which differences are beyond the noise, corrected for how many were looked at.

Accuracy: the record's exact McNemar p of the paired predictions. Speedup: the p that belongs to
its 95 % interval on the logarithmic scale (Altman and Bland 2011, BMJ 343:d2304). All comparisons
of one kind within one environment are a family, adjusted by Holm's step-down method (1979).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pqbench.report.footnotes import batch_field
from pqbench.report.rows import Estimate, Row

ALPHA = 0.05
BETTER, WORSE, NOISE, UNTRUSTED = "better", "worse", "no difference shown", "not to be trusted"
_Z = 1.959964


@dataclass(frozen=True)
class Comparison:
    """One figure of an experiment against its baseline.

    Attributes:
        row: Index of the experiment among the rows.
        name: The row's field: ``drop_pt``, or ``speedup_b<batch size>``.
        batch_size: Samples per call; None for the accuracy.
        estimate: The difference: drop in percentage points, or speedup.
        p: Of no difference.
        adjusted_p: The same after Holm's correction.
        verdict: ``better``, ``worse``, ``no difference shown`` or ``not to be trusted``.
    """

    row: int
    name: str
    batch_size: int | None
    estimate: Estimate
    p: float
    adjusted_p: float
    verdict: str


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def ratio_p(ratio: Estimate, other: Estimate | None = None) -> float:
    """Two-sided p that a positive figure is 1, or equals an independent ``other``."""
    if min(ratio.value, ratio.low) <= 0 or (other and min(other.value, other.low) <= 0):
        return 1.0
    distance = math.log(ratio.value) - (math.log(other.value) if other else 0.0)
    error = math.hypot(_log_error(ratio), _log_error(other) if other else 0.0)
    return _two_sided(distance, error)


def difference_p(first: Estimate, second: Estimate) -> float:
    """Two-sided p that two independent figures are equal, on the linear scale."""
    errors = [(e.high - e.low) / (2 * _Z) for e in (first, second)]
    return _two_sided(first.value - second.value, math.hypot(*errors))


def _log_error(value: Estimate) -> float:
    return (
        (math.log(value.high) - math.log(value.low)) / (2 * _Z)
        if value.high < math.inf
        else (math.inf)
    )


def _two_sided(distance: float, error: float) -> float:
    if error == 0:
        return 1.0 if distance == 0 else 0.0
    return math.erfc(abs(distance) / error / math.sqrt(2))


def compare_with_baselines(rows: Sequence[Row]) -> list[Comparison]:
    """Every drop and speedup of these rows, judged after Holm's correction.

    What was disturbed is not part of a family: it would be judged by figures known to be wrong.
    """
    found: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.status != "ok":
            continue
        if row.drop_pt is not None and row.mcnemar_p is not None:
            found[(row.machine, "accuracy")].append(
                Comparison(index, "drop_pt", None, row.drop_pt, row.mcnemar_p, 1.0, NOISE)
            )
        for size, speedup in sorted(row.speedups.items()):
            name = batch_field("speedup", size)
            untrusted = name in row.untrusted
            kind = "untrusted" if untrusted else "speedup"
            verdict = UNTRUSTED if untrusted else NOISE
            found[(row.machine, kind)].append(
                Comparison(index, name, size, speedup, ratio_p(speedup), 1.0, verdict)
            )
    judged = []
    for (_, kind), family in found.items():
        if kind == "untrusted":
            judged += family
            continue
        for item, p in zip(family, holm([c.p for c in family]), strict=True):
            verdict = _verdict(item, p)
            judged.append(Comparison(*_head(item), p, verdict))
    return sorted(judged, key=lambda c: (c.row, c.batch_size or 0))


def _head(item: Comparison) -> tuple[int, str, int | None, Estimate, float]:
    return item.row, item.name, item.batch_size, item.estimate, item.p


def _verdict(item: Comparison, adjusted: float) -> str:
    none, good = (0.0, -1) if item.name == "drop_pt" else (1.0, 1)
    if adjusted >= ALPHA or item.estimate.low <= none <= item.estimate.high:
        return NOISE
    return BETTER if good * (item.estimate.value - none) > 0 else WORSE


def beats_all(winner: Estimate, others: Sequence[Estimate], ratio: bool) -> bool:
    """Whether a figure differs from each of its competitors after Holm's correction."""
    p_values = [ratio_p(winner, o) if ratio else difference_p(winner, o) for o in others]
    return all(p < ALPHA for p in holm(p_values))
