"""A cell that takes part in ``search=best``, and what its looks have shown."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from pqbench.core.record import Speedup
from pqbench.report.evidence import Evidence

# Standard deviation of a cell's log ratio from start to start, before any was seen, and the
# observations that this is worth: two starts that agree by chance say little.
USUAL_STARTS, WORTH_STARTS = 0.03, 2.0
ONE_START = 0.06  # standard error where there was one start
DISTURBED = 0.15  # the same where other work disturbed it


@dataclass(frozen=True)
class Pace:
    """How fast a cell seems to be, at the smallest batch size.

    Attributes:
        ratio: Natural logarithm of its speedup over FP32 on its own runtime.
        error: Standard error of that.
        base: Natural logarithm of that FP32's milliseconds.
    """

    ratio: float
    error: float
    base: float


@dataclass
class Entrant:
    """A cell of the space.

    Attributes:
        number: Its place in the space.
        overrides: What was chosen.
        group: Cells of one group compete: model and data set.
        backend: Its runtime.
        label: What tells it from the others.
        plain: Whether it compresses nothing.
        in_fp32: Whether its runtime computes in FP32 what is not quantized.
        trains: Whether its recipe trains, which the first look cuts short.
        smallest: Smallest batch size that is asked for: that of the looks.
        prior_ms: Milliseconds that earlier records of this machine promise; None: none is known.
        looks: Looks that it has had.
        pace: By the closest look; None before.
        loss: What the closest look at the whole recipe knows of its drop; None: nothing.
        count: Samples behind it.
        dropped: Why it is out; empty while it is in.
        scored_whole: Whether ``loss`` is of all samples: closer looks would find it again.
        holds: Whether it was measured in full and its claims hold.
    """

    number: int
    overrides: tuple[str, ...]
    group: str
    backend: str
    label: str = ""
    plain: bool = False
    in_fp32: bool = True
    trains: bool = False
    smallest: int = 1
    prior_ms: float | None = None
    looks: int = 0
    pace: Pace | None = None
    loss: Evidence | None = None
    count: int = 0
    dropped: str = ""
    scored_whole: bool = False
    holds: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others; all choices where that was not said."""
        return self.label or " ".join(self.overrides)

    @property
    def base(self) -> tuple[str, ...]:
        """What is chosen beside the recipe: cells that agree in it share one FP32."""
        return (self.group, *(o for o in self.overrides if not o.startswith("compress")))

    @property
    def counts(self) -> tuple[int, int, int] | None:
        """Lost, gained and all samples; None where they are not known."""
        return self.loss.counts if self.loss else None


def error_of(speedup: Speedup) -> float:
    """Standard error of a log speedup, from its starts and from what starts usually differ by."""
    logs = [math.log(ratio) for ratio in speedup.start_ratios if ratio > 0]
    if len(logs) < 2:
        error = ONE_START
    else:
        squares = (len(logs) - 1) * statistics.variance(logs) + WORTH_STARTS * USUAL_STARTS**2
        error = math.sqrt(squares / (len(logs) - 1 + WORTH_STARTS) / len(logs))
    return max(error, DISTURBED) if speedup.disturbed else error
