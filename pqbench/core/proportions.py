"""Shares of samples, alone and paired: intervals and tests that hold near 0 and 1.

Pure functions that scoring and reporting share; SciPy is imported inside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054


def wilson(successes: float, count: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, JASA 22, 1927).

    Args:
        successes: 0..``count``; an effective number need not be whole.
        count: Above 0.
        z: Normal quantile; the default gives 95 %.
    """
    share, z2 = successes / count, z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    low = 0.0 if successes == 0 else max(centre - half, 0.0)
    high = 1.0 if successes == count else min(centre + half, 1.0)
    return low, high


def paired_score(lost: int, gained: int, count: int, drop: float) -> float:
    """Tango's score statistic of two proportions on the same samples.

    Tango, Statistics in Medicine 17:891-908, 1998. It keeps its size where the two differ on few
    samples or none; standard normal if the true drop is ``drop``.

    Args:
        lost: Samples that only the first (the baseline) has right.
        gained: Samples that only the second has right.
        count: All samples, at least 1.
        drop: Supposed ``(lost - gained) / count``, -1..1.
    """
    a = 2.0 * count
    b = -lost - gained + (2 * count - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = count * (2 * q + drop * (1 - drop))
    difference = lost - gained - count * drop
    if variance <= 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def paired_difference(
    lost: int, gained: int, count: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two proportions on the same samples, by Tango's score.

    Args:
        lost: Samples that only the first model has right.
        gained: Samples that only the second has right.
        count: All samples, at least 1.
        confidence: Of the two-sided interval.

    Returns:
        Lower and upper end of ``(lost - gained) / count``.
    """
    z = Z95 if confidence == 0.95 else _normal_quantile(0.5 + confidence / 2)
    estimate = (lost - gained) / count

    def cross(inside: float, outside: float) -> float:
        """Where the falling score crosses the quantile between the estimate and the end."""
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(paired_score(lost, gained, count, middle)) < z:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    low = -1.0 if estimate <= -1 else cross(estimate, -1.0)
    high = 1.0 if estimate >= 1 else cross(estimate, 1.0)
    return low, high


def drop_p_at_least(lost: int, gained: int, count: int, margin: float) -> float:
    """One-sided p that the true drop is at least ``margin``: small where it is shown to be less.

    The larger of the p value of Tango's score test and of the exact binomial test for the case
    in which no sample is ever gained. The score test alone is too bold there: with no sample lost
    it would call 268 samples enough for a margin of 1 %, where an exact test asks 299.

    Args:
        lost: Samples that only the baseline has right.
        gained: Samples that only the candidate has right.
        count: All samples, at least 1.
        margin: -1..1; the drop in shares.
    """
    from scipy.special import bdtr, ndtr

    p = float(ndtr(paired_score(lost, gained, count, margin)))
    if margin > 0 and lost >= gained:
        p = max(p, float(bdtr(lost - gained, count, margin)))
    return p


def drop_p_at_most(lost: int, gained: int, count: int, margin: float) -> float:
    """One-sided p that the true drop is at most ``margin``: small where more is shown.

    See :func:`drop_p_at_least`.
    """
    from scipy.special import bdtrc, ndtr

    p = float(ndtr(-paired_score(lost, gained, count, margin)))
    if margin > 0 and lost > gained:
        p = max(p, float(bdtrc(lost - gained - 1, count, margin)))
    return p


def drop_upper(lost: int, gained: int, count: int, confidence: float) -> float:
    """One-sided upper bound of the drop: the margin at which ``drop_p_at_least`` is 1 - confidence.

    Returns:
        A share, 0..1 (or below 0 where a gain is shown).
    """
    inside, outside = (lost - gained) / count, 1.0
    for _ in range(50):
        middle = (inside + outside) / 2
        if drop_p_at_least(lost, gained, count, middle) > 1 - confidence:
            inside = middle
        else:
            outside = middle
    return outside


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test (McNemar, Psychometrika 12, 1947); 1 if none differ."""
    from scipy.special import bdtr

    differ = lost + gained
    if differ == 0:
        return 1.0
    return min(1.0, 2.0 * float(bdtr(min(lost, gained), differ, 0.5)))


def constant_score(counts: Sequence[int]) -> tuple[int, float]:
    """The most frequent class, and the share that always answering it would have right.

    Args:
        counts: Samples by true class.
    """
    best = int(np.argmax(counts))
    return best, counts[best] / sum(counts)


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
