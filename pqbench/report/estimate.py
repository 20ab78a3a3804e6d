"""A figure with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """All three times ``factor``, which is above 0."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def divided(self, other: Estimate) -> Estimate:
        """This over an independent ``other``, both positive; their errors add up as logarithms.

        The distances from the value to each end, on the logarithmic scale, are combined as the
        root of the sum of squares: of this one's lower and the other's upper end, and conversely.
        """
        value = self.value / other.value
        down = math.hypot(_log(self.value, self.low), _log(other.high, other.value))
        up = math.hypot(_log(self.high, self.value), _log(other.value, other.low))
        return Estimate(value, value * math.exp(-down), value * math.exp(min(up, 700.0)))


def _log(larger: float, smaller: float) -> float:
    """Logarithm of their ratio; infinite where an end is 0 or infinite."""
    if smaller <= 0 or larger == math.inf:
        return math.inf
    return math.log(max(larger / smaller, 1.0))
