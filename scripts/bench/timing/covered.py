"""How often an interval holds the truth, as one line of the table of ``coverage.py``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

LOW, HIGH = 0.93, 0.98
Found = tuple[float | None, float | None]


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: The interval, or the kind of error.
        where: Protocol and noise, or the case.
        share: Covered, or in error.
        repeats: Draws behind it; those without an interval are not counted.
        good: Whether it lies where it must, two standard errors of the simulation allowed for.
        allowed: Where that is.
    """

    what: str
    where: str
    share: float
    repeats: int
    good: bool
    allowed: str


def covered(
    what: str,
    where: str,
    truth: float,
    draw: Callable[[], Found],
    repeats: int,
    conservative: bool = False,
) -> Line | None:
    """Draw intervals and count those that hold the truth; None if there hardly ever was one.

    With ``conservative`` more than 98 % is right: nearly always nothing happens (no sample flips),
    or the noise is no noise (a steady drift), and an interval cannot know.
    """
    hits, made = 0, 0
    for _ in range(repeats):
        low, high = draw()
        if low is None or high is None:
            continue
        made += 1
        hits += low - 1e-12 <= truth <= high + 1e-12
    if made < repeats / 10:
        return None
    share = hits / made
    slack = 2 * math.sqrt(0.95 * 0.05 / made)
    high = 1.0 if conservative else HIGH
    return Line(
        what, where, share, made, LOW - slack <= share <= high + slack, f"{LOW:.0%} to {high:.0%}"
    )
