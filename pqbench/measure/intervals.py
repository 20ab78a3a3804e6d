"""How sure a median or a ratio is: 95 % intervals from blocks of calls.

Calls that follow each other are not independent: a clock change or a neighbour moves many of them
together. So the unit of every interval is the *block*, not the call, and where neighbouring blocks
still go together the interval is widened by as much as their correlation asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Two-sided 97.5 % quantiles of Student's t for 1..7 degrees of freedom: 2 to 8 draws.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646)
_SMALL = len(_STUDENT) + 1


def _rank_interval(count: int) -> tuple[int, int]:
    """Ranks (from 0) between which the median of ``count`` draws lies with at least 95 %."""
    term, below, rank, limit = 1, 0, 0, 2**count  # whole numbers: exact, and no overflow
    for k in range(count // 2):
        below += term  # of `limit` equally likely outcomes, those with at most k draws below
        if 40 * below > limit:
            break
        rank = k
        term = term * (count - k) // (k + 1)
    return rank, count - 1 - rank


def median_interval(values: Sequence[float] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the median of independent draws.

    From 9 draws on it is the sign test's: two order statistics, valid for any distribution
    (Conover, Practical Nonparametric Statistics, 3.2). With fewer, order statistics are too coarse
    or do not reach 95 %, and Student's t on the logarithms is used.

    Args:
        values: At least one draw, all above 0.

    Returns:
        Lower and upper end; (0, inf) for a single draw.
    """
    data = np.sort(np.asarray(values, np.float64))
    count = len(data)
    if count == 1:
        return 0.0, math.inf
    if count > _SMALL:
        low, high = _rank_interval(count)
        return float(data[low]), float(data[high])
    logs = np.log(data)
    half = _STUDENT[count - 2] * float(logs.std(ddof=1)) / math.sqrt(count)
    centre = float(logs.mean())
    return math.exp(centre - half), math.exp(min(centre + half, 700.0))


def correlation_factor(medians: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """By how much correlation between neighbouring blocks widens an interval, at least 1.

    For a first-order autoregressive series with correlation r, a mean's variance grows by
    ``(1 + r) / (1 - r)``. r is estimated on ranks and put right for its bias in short series
    (Marriott and Pope, Biometrika 41, 1954); it is capped at 0.95.

    Args:
        medians: One per block, in order of time.
    """
    count = len(medians)
    if count < 6:
        return 1.0
    ranks = np.argsort(np.argsort(medians)).astype(np.float64)
    ranks -= ranks.mean()
    r = float(ranks[1:] @ ranks[:-1]) / float(ranks @ ranks)
    r = min(r + (1 + 3 * r) / count, 0.95)
    return math.sqrt((1 + r) / (1 - r)) if r > 0 else 1.0


def between_processes(
    low: float,
    high: float,
    values: Sequence[float] | npt.NDArray[np.float64],
    processes: Sequence[int],
) -> tuple[float, float]:
    """An interval that also covers what a fresh start of the processes changes.

    Memory layout, thread placement and what a runtime chooses at load differ from start to start
    and stay for a process's life (Kalibera and Jones, "Rigorous benchmarking in reasonable time",
    ISMM 2013): no number of calls in one process shows them. With several, the interval of the
    median of the processes' medians does.

    Args:
        low: Lower end of the interval from within.
        high: Upper end of it.
        values: What was measured, one per block or pair.
        processes: The process of each value; empty: all of one.

    Returns:
        The ends, unchanged for one process, never narrower than given.
    """
    data, groups = np.asarray(values, np.float64), np.asarray(processes)
    names = np.unique(groups)
    if len(names) < 2:
        return low, high
    ends = median_interval([float(np.median(data[groups == name])) for name in names])
    return min(low, ends[0]), max(high, ends[1])


def p50_interval(
    blocks: Sequence[npt.NDArray[np.int64]], processes: Sequence[int] = ()
) -> tuple[float, float, float]:
    """Median of all calls in ms, with its 95 % interval from between the blocks.

    Args:
        blocks: Times in ns by block, in order of time.
        processes: The process of each block; empty: all of one.

    Returns:
        Median, lower end, upper end in ms; the interval holds the median.
    """
    p50 = float(np.median(np.concatenate(blocks))) / 1e6
    medians = np.array([float(np.median(block)) / 1e6 for block in blocks])
    low, high = median_interval(medians)
    factor, centre = correlation_factor(medians), float(np.median(medians))
    low, high = centre - factor * (centre - low), centre + factor * (high - centre)
    low, high = between_processes(low, high, medians, processes)
    return p50, max(min(low, p50), 0.0), max(high, p50)


def ratio_interval(
    ratios: Sequence[float], seed: int = 0, processes: Sequence[int] = ()
) -> tuple[float, float, float]:
    """Median of the pairs' ratios with a 95 % interval.

    From 9 pairs on it is the percentile bootstrap over pairs (4,000 draws), never narrower than
    the sign test's interval; with fewer, where a bootstrap is known to be too narrow, Student's t
    on the logarithms. With several processes it is at least as wide as their medians ask for.

    Args:
        ratios: Baseline over candidate by pair, all above 0.
        seed: Seeds the bootstrap.
        processes: Start of the session processes that each pair belongs to; empty: one start.

    Returns:
        Estimate, lower and upper end; (0, inf) as ends of a single pair.
    """
    values = np.asarray(ratios, np.float64)
    estimate = float(np.median(values))
    low, high = median_interval(values)
    if len(values) >= 9:
        draws = np.random.default_rng(seed).integers(0, len(values), (4000, len(values)))
        ends = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    low, high = between_processes(low, high, values, processes)
    return estimate, min(low, estimate), max(high, estimate)


def relative_half_width(estimate: float, low: float, high: float) -> float:
    """Half an interval's width over the estimate."""
    return (high - low) / 2 / estimate
