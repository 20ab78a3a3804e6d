"""A figure with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
        dof: Degrees of freedom of the interval: starts minus 1 for what is timed, and 0 for one
            start, whose interval does not cover what another start would change. None: those of
            a normal distribution, or an exact figure.
    """

    value: float
    low: float
    high: float
    dof: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """All three times ``factor``, which is above 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.dof)

    def divided(self, other: Estimate) -> Estimate:
        """This over an independent ``other``, both positive; their errors add up as logarithms.

        The distances from the value to each end, on the logarithmic scale, are combined as the
        root of the sum of squares: of this one's lower and the other's upper end, and conversely.
        """
        value = self.value / other.value
        down = math.hypot(_log(self.value, self.low), _log(other.high, other.value))
        up = math.hypot(_log(self.high, self.value), _log(other.value, other.low))
        dofs = [e.dof for e in (self, other) if e.dof is not None]
        ends = (value * math.exp(-down), value * math.exp(min(up, 700.0)))
        return Estimate(value, *ends, min(dofs, default=None))


def _log(larger: float, smaller: float) -> float:
    """Logarithm of their ratio; infinite where an end is 0 or infinite."""
    if smaller <= 0 or larger == math.inf:
        return math.inf
    return math.log(max(larger / smaller, 1.0))
