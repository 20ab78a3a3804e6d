"""How sure a figure is: Student's t over independent units, order statistics, Holm's correction.

Pure functions that measuring and reporting share. The unit of a latency or a speedup is the *start*
of the processes, that of a segmentation the image: what varies within one is not independent
(Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). SciPy is imported
inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

ALPHA = 0.05
OVER = 3  # calls above a percentile, without which a group does not tell it


@dataclass(frozen=True)
class Normal:
    """An estimate whose error follows Student's t.

    Attributes:
        value: The estimate; of a ratio its natural logarithm.
        error: Its standard error, in the unit of the value.
        dof: Degrees of freedom of the error, above 0.
    """

    value: float
    error: float
    dof: float

    def interval(self, confidence: float = 1 - ALPHA) -> tuple[float, float]:
        """Both ends of the two-sided interval."""
        half = t_quantile(0.5 + confidence / 2, self.dof) * self.error
        return self.value - half, self.value + half

    def lower(self, confidence: float) -> float:
        """One-sided lower bound."""
        return self.value - t_quantile(confidence, self.dof) * self.error

    def upper(self, confidence: float) -> float:
        """One-sided upper bound."""
        return self.value + t_quantile(confidence, self.dof) * self.error

    def p_at_most(self, null: float) -> float:
        """P value of the truth being at most ``null``: small where it is shown to be above."""
        return self._below(null - self.value)

    def p_at_least(self, null: float) -> float:
        """P value of the truth being at least ``null``: small where it is shown to be below."""
        return self._below(self.value - null)

    def p_equal(self, null: float = 0.0) -> float:
        """Two-sided p that the truth is ``null``."""
        return min(1.0, 2 * min(self.p_at_most(null), self.p_at_least(null)))

    def minus(self, other: Normal) -> Normal:
        """The difference of two independent estimates (Welch, Biometrika 34, 1947)."""
        mine, theirs = self.error**2, other.error**2
        total = mine + theirs
        if total == 0:
            return Normal(self.value - other.value, 0.0, min(self.dof, other.dof))
        dof = total**2 / (mine**2 / self.dof + theirs**2 / other.dof)
        return Normal(self.value - other.value, math.sqrt(total), dof)

    def _below(self, difference: float) -> float:
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if difference < 0 else 1.0
        return float(stdtr(self.dof, difference / self.error))


@lru_cache(maxsize=4096)  # a report asks for a few of them ten thousand times
def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def mean_of(values: Sequence[float] | npt.NDArray[np.float64]) -> Normal | None:
    """Mean of independent values, with ``len(values) - 1`` degrees of freedom.

    Args:
        values: One per independent unit, such as the log ratio of each start.

    Returns:
        None below two values: nothing tells how much they vary.
    """
    data = np.asarray(values, np.float64)
    if len(data) < 2:
        return None
    error = float(data.std(ddof=1)) / math.sqrt(len(data))
    return Normal(float(data.mean()), error, len(data) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given (Scand. J. Statist. 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


@dataclass(frozen=True)
class Tail:
    """A high percentile.

    Attributes:
        value: The conservative order statistic: with 99 % at least as high as the true percentile
            if calls are independent.
        low: Lower end of the 95 % interval; None where there are too few calls or groups for one.
        high: Upper end of it.
    """

    value: float
    low: float | None
    high: float | None


def tail_calls(share: float, confidence: float = 0.99) -> int:
    """Least number of calls that supports a percentile: 64 for p90, 130 for p95, 662 for p99.

    MLPerf LoadGen's early-stopping rule with one call over the bound allowed: the least n with
    ``P(Binomial(n, 1 - share) <= 1) <= 1 - confidence``.
    """
    from scipy.special import bdtr

    count = 2
    while float(bdtr(1, count, 1 - share)) > 1 - confidence:
        count += 1
    return count


def tail(
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64],
    share: float,
    groups: Sequence[int] | npt.NDArray[np.int64],
) -> Tail | None:
    """A percentile as MLPerf LoadGen gives it, with an interval.

    The value is the t-th highest of n, t the largest with ``P(Binomial(n, 1 - share) <= t) <=
    0.01``. Slow calls come in bursts and differ from start to start, so the interval is that of
    the groups' percentiles on the log scale: Student's t, one degree of freedom less than groups.
    It is for the percentile of a typical group, each of which must have ``OVER`` calls above it.

    Args:
        values: Every call, in any unit.
        share: Such as 0.99.
        groups: The start that each call belongs to; with one there is no interval.

    Returns:
        None where there are fewer than :func:`tail_calls`.
    """
    from scipy.special import bdtr

    data = np.asarray(values, np.float64)
    count = len(data)
    if count < tail_calls(share):
        return None
    ordered = np.sort(data)
    expected = math.ceil(count * (1 - share)) + 1
    over = int(np.sum(bdtr(np.arange(expected + 1), count, 1 - share) <= 0.01)) - 1
    value = float(ordered[count - over])
    names = np.asarray(groups)
    parts = [data[names == name] for name in np.unique(names)]
    if len(parts) < 2 or min(map(len, parts)) * (1 - share) < OVER:
        return Tail(value, None, None)
    mean = mean_of([math.log(float(np.quantile(part, share))) for part in parts])
    assert mean is not None  # there are two groups or more
    low, high = (math.exp(end) for end in mean.interval())
    return Tail(value, min(low, value), max(high, value))
