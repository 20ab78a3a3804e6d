"""Which differences are beyond the noise, corrected for how many were looked at.

Accuracy: the exact McNemar p of the paired predictions, for segmentation Student's t by image; the
same on clean images. Speedup: Student's t over the starts of the processes, with one degree of
freedom less than there are starts. One start decides nothing, and says so. All comparisons of a
report are one family, adjusted by Holm's step-down method (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pqbench.core.statistics import ALPHA, Normal, holm, t_quantile
from pqbench.report.footnotes import batch_field
from pqbench.report.rows import Estimate, Row

__all__ = ["ALPHA", "Comparison", "beats_all", "compare_with_baselines", "holm", "ratio_p"]
BETTER, WORSE, NOISE, UNTRUSTED = "better", "worse", "no difference shown", "not to be trusted"
TOO_FEW = "too few starts"
_MANY = 1e6  # degrees of freedom that are as good as a normal distribution's


@dataclass(frozen=True)
class Comparison:
    """One figure of an experiment against its baseline.

    Attributes:
        row: Index of the experiment among the rows.
        name: The row's field: ``drop_pt``, ``clean_drop_pt``, or ``speedup_b<batch size>``.
        batch_size: Samples per call; None for the accuracy.
        estimate: The difference: drop in percentage points, or speedup.
        p: Of no difference; 1 where nothing was tested.
        adjusted_p: The same after Holm's correction.
        verdict: ``better``, ``worse``, ``no difference shown``, ``too few starts`` or ``not to be
            trusted``; the last two are not part of the family.
    """

    row: int
    name: str
    batch_size: int | None
    estimate: Estimate
    p: float
    adjusted_p: float
    verdict: str


def _normal(value: Estimate, log: bool) -> Normal | None:
    """The estimate with its standard error; None where its interval does not tell one."""
    dof = _MANY if value.dof is None else value.dof
    ends = (value.value, value.low, value.high)
    if dof <= 0 or (log and min(ends) <= 0) or max(ends) == math.inf:
        return None
    centre, low, high = (math.log(end) for end in ends) if log else ends
    return Normal(centre, (high - low) / 2 / t_quantile(0.975, dof), dof)


def _equal_p(first: Normal | None, second: Normal | None) -> float:
    if first is None or second is None:
        return 1.0
    return first.minus(second).p_equal()


def ratio_p(ratio: Estimate, other: Estimate | None = None) -> float:
    """Two-sided p that a positive figure is 1, or equals an independent ``other``.

    Student's t on the logarithmic scale (for two, Welch's); 1 where a figure comes from one start,
    or has no interval.
    """
    return _equal_p(_normal(ratio, True), _normal(other or Estimate(1.0, 1.0, 1.0), True))


def difference_p(first: Estimate, second: Estimate) -> float:
    """Two-sided p that two independent figures are equal, on the linear scale."""
    return _equal_p(_normal(first, False), _normal(second, False))


def compare_with_baselines(rows: Sequence[Row]) -> list[Comparison]:
    """Every drop and speedup of these rows, judged after Holm's correction over all of them.

    What was disturbed or comes from one start is not part of the family: there is nothing to
    judge it by.
    """
    found = [c for index, row in enumerate(rows) if row.status == "ok" for c in _of(row, index)]
    tested = [i for i, c in enumerate(found) if c.verdict == NOISE]
    for i, p in zip(tested, holm([found[i].p for i in tested]), strict=True):
        found[i] = replace(found[i], adjusted_p=p, verdict=_verdict(found[i], p))
    return found


def _of(row: Row, index: int) -> Iterator[Comparison]:
    """The comparisons of one row, before they are corrected."""
    for name, drop, p in (
        ("drop_pt", row.drop_pt, row.drop_p),
        ("clean_drop_pt", row.clean_drop_pt, row.clean_drop_p),
    ):
        if drop is not None and p is not None:
            yield Comparison(index, name, None, drop, p, 1.0, NOISE)
    for size, speedup in sorted(row.speedups.items()):
        name = batch_field("speedup", size)
        verdict = UNTRUSTED if name in row.untrusted else NOISE if speedup.dof else TOO_FEW
        p = ratio_p(speedup) if verdict == NOISE else 1.0
        yield Comparison(index, name, size, speedup, p, 1.0, verdict)


def _verdict(item: Comparison, adjusted: float) -> str:
    none, good = (0.0, -1) if item.batch_size is None else (1.0, 1)
    if adjusted >= ALPHA or item.estimate.low <= none <= item.estimate.high:
        return NOISE
    return BETTER if good * (item.estimate.value - none) > 0 else WORSE


def beats_all(winner: Estimate, others: Sequence[Estimate], ratio: bool) -> bool:
    """Whether a figure differs from each of its competitors after Holm's correction."""
    p_values = [ratio_p(winner, o) if ratio else difference_p(winner, o) for o in others]
    return all(p < ALPHA for p in holm(p_values))
