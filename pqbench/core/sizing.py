"""How much more must be measured to decide: samples for a drop, starts for a speedup.

From a pilot's own variances, with the power stated; see Julious, "Sample sizes for clinical
trials with normal data" (Statistics in Medicine 23:1921-1986, 2004). SciPy is imported inside.
"""

from __future__ import annotations

import math

from pqbench.core.proportions import Z95, drop_p_at_least, drop_p_at_most
from pqbench.core.statistics import Normal, t_quantile

POWER = 0.8
MOST_STARTS = 200
MOST_SAMPLES = 10_000_000


def samples_for_drop(
    lost: int, gained: int, count: int, margin: float, alpha: float, power: float = POWER
) -> int | None:
    """Samples in all with which the drop is shown to be below the margin, or above it.

    Args:
        lost: Samples that only the baseline has right, in the pilot.
        gained: Samples that only the candidate has right.
        count: All samples of the pilot.
        margin: In shares, above 0.
        alpha: One-sided level that the p value must reach.
        power: Chance of reaching it if the pilot's shares are the true ones.

    Returns:
        None where the pilot's drop is so close to the margin that no number would do.
    """
    from scipy.special import ndtri

    estimate = (lost - gained) / count
    distance = abs(margin - estimate)
    differ = max(lost + gained, 1) / count  # none seen is not none
    variance = differ - min(estimate**2, differ / 2)
    z = -float(ndtri(alpha)) + float(ndtri(power))
    if distance <= 0:
        return None
    wanted = variance * (z / distance) ** 2
    if estimate < margin:
        wanted = max(wanted, math.log(alpha) / math.log1p(-margin))  # nothing lost at all
    test = drop_p_at_least if estimate < margin else drop_p_at_most
    # The formula is the normal distribution's; with few that differ the test asks for more.
    while wanted <= MOST_SAMPLES:
        number = math.ceil(wanted)
        scale = number / count
        if test(round(lost * scale), round(gained * scale), number, margin) <= alpha:
            return number
        wanted = 1.02 * number
    return None


def samples_for_half_width(lost: int, gained: int, count: int, half_width: float) -> int:
    """Samples in all with which the drop's 95 % interval has this half-width, in shares.

    The pilot's share of differing samples is taken at the upper end of its 90 % interval, and that
    many of the re-run's differ as seldom happens, so that the promise is kept in at least 90 % of
    re-runs. The width is that of Tango's interval, which is wider than a normal one where few
    samples differ.
    """
    from pqbench.core.proportions import paired_difference, wilson

    differ = wilson(lost + gained, count, z=1.644854)[1]
    wanted = max(math.ceil((Z95 / half_width) ** 2 * differ), 10)
    while True:
        each = math.ceil((wanted * differ + 1.28 * math.sqrt(wanted * differ)) / 2)
        low, high = paired_difference(each, each, wanted)
        if (high - low) / 2 <= half_width:
            return wanted
        wanted = math.ceil(wanted * 1.03)


def units_for_half_width(
    error: float, dof: float, count: int, half_width: float, confidence: float = 0.9
) -> int | None:
    """Independent units (starts, images) in all for a 95 % interval of this half-width.

    The pilot's standard deviation is taken at the upper end that it stays below with the stated
    confidence (chi-squared), and so is that of the re-run.

    Args:
        error: Standard error of the mean of ``count`` units.
        dof: Its degrees of freedom.
        count: Units of the pilot.
        half_width: Wished, in the unit of the error.
        confidence: That a re-run reaches it.

    Returns:
        None above :data:`MOST_STARTS` starts' worth of any unit: out of reach.
    """
    from scipy.special import chdtri

    # Two chances to be unlucky, the pilot's deviation and the re-run's: share the risk.
    risk = (1 - confidence) / 2
    deviation = error * math.sqrt(count) * math.sqrt(dof / float(chdtri(dof, 1 - risk)))
    units = 2
    while units <= MOST_STARTS * 100:
        again = math.sqrt(float(chdtri(units - 1, risk)) / (units - 1))
        if t_quantile(0.975, units - 1) * deviation * again / math.sqrt(units) <= half_width:
            return units
        units += 1 if units < MOST_STARTS else units // 20
    return None


def starts_for_bound(
    mean: Normal, starts: int, null: float, alpha: float, power: float = POWER
) -> int | None:
    """Starts in all with which the mean is shown to be beyond ``null``, on its own side of it.

    Args:
        mean: The pilot's mean log ratio over ``starts`` starts.
        starts: Of the pilot.
        null: Logarithm of the margin.
        alpha: One-sided level that the p value must reach.
        power: Chance of reaching it if the pilot's mean and deviation are the true ones.

    Returns:
        None where more than :data:`MOST_STARTS` would be needed.
    """
    distance = abs(mean.value - null)
    deviation = mean.error * math.sqrt(starts)
    for units in range(starts + 1, MOST_STARTS + 1):
        needed = t_quantile(1 - alpha, units - 1) + t_quantile(power, units - 1)
        if distance * math.sqrt(units) >= needed * deviation:
            return units
    return None


def about(number: float) -> str:
    """A number for reading, rounded up to two digits: ``1,900``."""
    if number <= 10:
        return str(math.ceil(number))
    step = 10 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / step) * step:,}"
