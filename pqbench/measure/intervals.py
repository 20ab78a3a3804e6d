"""How sure a median or a ratio is: 95 % intervals from blocks of calls.

Calls that follow each other are not independent: a clock change or a neighbour moves many of them
together. So the unit of every interval is the *block*, not the call; and where the processes were
started several times the unit is the *start*, because memory layout, thread placement and what a
runtime chooses at load differ from start to start and stay for a process's life (Kalibera and
Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). Everything is on the log scale: a
time is above 0, and a ratio and its reciprocal get the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pqbench.core.statistics import mean_of

Values = Sequence[float] | npt.NDArray[np.float64]

_SMALL = 8
_FARTHEST = 700.0  # of a logarithm: exp of more is no float


def median_interval(values: Values) -> tuple[float, float]:
    """95 % interval of the median of independent draws.

    From 9 draws on it is the sign test's, interpolated between two order statistics so that it
    has 95 % and not up to 99 % (Hettmansperger and Sheather, Statistics & Probability Letters 4,
    1986); it holds for any distribution. With fewer, order statistics are too coarse or do not
    reach 95 %, and Student's t on the logarithms is used.

    Args:
        values: At least one draw, all above 0.

    Returns:
        Lower and upper end; (0, inf) for a single draw.
    """
    low, high = _log_interval(np.log(np.asarray(values, np.float64)))
    return math.exp(low), math.exp(min(high, _FARTHEST)) if high < math.inf else math.inf


def _log_interval(logs: npt.NDArray[np.float64]) -> tuple[float, float]:
    count = len(logs)
    if count > _SMALL:
        return _sign_interval(np.sort(logs))
    mean = mean_of(logs)
    return (-math.inf, math.inf) if mean is None else mean.interval()


def _sign_interval(data: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The sign test's, of sorted draws."""
    from scipy.special import bdtr

    count = len(data)
    # Confidence that the median lies between the d-th lowest and the d-th highest.
    held = 1 - 2 * bdtr(np.arange(count // 2), count, 0.5)
    d = int(np.sum(held >= 0.95))
    more, less = float(held[d - 1]), float(held[d])
    share = (more - 0.95) / (more - less)
    weight = (count - d) * share / (d + (count - 2 * d) * share)
    low = (1 - weight) * data[d - 1] + weight * data[d]
    high = (1 - weight) * data[count - d] + weight * data[count - d - 1]
    return float(low), float(high)


def correlation_factor(medians: Values) -> float:
    """By how much correlation between neighbouring blocks widens an interval, at least 1.

    For a first-order autoregressive series with correlation r, a mean's variance grows by
    ``(1 + r) / (1 - r)``. r is estimated on ranks and put right for its bias in short series
    (Marriott and Pope, Biometrika 41, 1954), plus half its standard error, because too small a
    factor costs more coverage than too large a one gains; it is capped at 0.95.

    Args:
        medians: One per block, in order of time.
    """
    count = len(medians)
    if count < 6:
        return 1.0
    _, index, sizes = np.unique(np.asarray(medians), return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        return 1.0
    ranks = (np.cumsum(sizes) - sizes / 2)[index]  # ties share one: their order says nothing
    ranks -= ranks.mean()
    r = float(ranks[1:] @ ranks[:-1]) / float(ranks @ ranks)
    r = min(r + (1 + 3 * r) / count + 0.5 / math.sqrt(count), 0.95)
    return math.sqrt((1 + r) / (1 - r)) if r > 0 else 1.0


FEW_BLOCKS = 6  # of one start: with fewer their correlation cannot be told


def start_means(values: Values, processes: Sequence[int]) -> list[float]:
    """Mean of each start's values on the log scale, in order of the starts.

    Of pairs in balanced order a mean cancels a steady drift, which a median of few does not; that
    a call takes long for once is kept out by the blocks' medians already.

    Args:
        values: One per block or pair, all above 0.
        processes: The start of each value; empty: all of one.
    """
    logs = np.log(np.asarray(values, np.float64))
    groups = np.asarray(processes) if len(processes) else np.zeros(len(logs), np.int64)
    return [float(np.mean(logs[groups == name])) for name in np.unique(groups)]


def start_p50_ms(blocks: Sequence[npt.NDArray[np.int64]], processes: Sequence[int]) -> list[float]:
    """Median of each start's calls in ms, in order of the starts; see :func:`p50_interval`."""
    groups = np.asarray(processes) if len(processes) else np.zeros(len(blocks), np.int64)
    return [
        float(
            np.median(np.concatenate([b for b, g in zip(blocks, groups, strict=True) if g == name]))
        )
        / 1e6
        for name in np.unique(groups)
    ]


def p50_interval(
    blocks: Sequence[npt.NDArray[np.int64]], processes: Sequence[int] = ()
) -> tuple[float, float, float]:
    """Median of all calls in ms, with its 95 % interval.

    With several starts the interval is Student's t on the logarithms of their medians; with one,
    that of the blocks' medians, see :func:`ratio_interval`.

    Args:
        blocks: Times in ns by block, in order of time.
        processes: The process of each block; empty: all of one.

    Returns:
        Median, lower end, upper end in ms; the interval holds the median.
    """
    p50 = float(np.median(np.concatenate(blocks))) / 1e6
    starts = start_p50_ms(blocks, processes)
    if len(starts) > 1:
        _, low, high = ratio_interval(starts, range(len(starts)))
    else:
        _, low, high = ratio_interval([float(np.median(block)) / 1e6 for block in blocks])
    return p50, min(low, p50), max(high, p50)


def ratio_interval(
    ratios: Sequence[float], processes: Sequence[int] = ()
) -> tuple[float, float, float]:
    """Centre of the pairs' ratios with a 95 % interval.

    With several starts: the mean of the starts' mean log ratios, Student's t with one degree of
    freedom less than there are starts. With one: the median, and :func:`median_interval` widened
    by :func:`correlation_factor`; it does not cover what another start would change.

    Args:
        ratios: Baseline over candidate by pair, all above 0, in order of time.
        processes: Start of the session processes that each pair belongs to; empty: one start.

    Returns:
        Estimate, lower and upper end; (0, inf) as ends of a single pair.
    """
    between = mean_of(start_means(ratios, processes))
    if between is not None:
        return _positive(between.value, *between.interval())
    logs = np.log(np.asarray(ratios, np.float64))
    centre = float(np.median(logs))
    low, high = _log_interval(logs)
    factor = correlation_factor(logs)
    low, high = centre - factor * (centre - low), centre + factor * (high - centre)
    _, low, high = _positive(centre, min(low, centre), max(high, centre))
    exact = float(np.median(ratios))
    return exact, min(low, exact), max(high, exact)


def _positive(value: float, low: float, high: float) -> tuple[float, float, float]:
    ends = (math.exp(max(low, -_FARTHEST)), math.exp(min(high, _FARTHEST)))
    return (
        math.exp(value),
        0.0 if low == -math.inf else ends[0],
        math.inf if high == math.inf else ends[1],
    )


def relative_half_width(estimate: float, low: float, high: float) -> float:
    """Half an interval's width over the estimate."""
    return (high - low) / 2 / estimate
