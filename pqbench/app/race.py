"""``search=best``: which cell is the answer, without measuring all of them in full.

Every cell is looked at cheaply first (one start, four short blocks, no image scored, no training);
then the most promising one is looked at more closely, again and again, until no cell is left that
could still be the answer. So only what is fast enough to matter is ever scored. A cell is dropped
on evidence alone:

* it has no result, or its model is at fault (:attr:`Accuracy.faithfulness`);
* it is shown to lose more than the margin: one-sided p of the drop being within it below
  ``BEYOND_DOUBT`` (the claim itself is judged at the end on the upper bound, as in any sweep);
* scored on all samples it cannot be shown to keep the margin, and another cell does;
* it is shown to be slower than a cell that was measured in full and keeps its claims, or not to be
  faster by more than ``WORTH``;
* it is shown to be slower than the margin asks for.

Choosing the leader and dropping by bounds is best-arm identification (Kalyanakrishnan et al., "PAC
subset selection in stochastic multi-armed bandits", ICML 2012), the growing looks are successive
halving's (Jamieson and Talwalkar, AISTATS 2016). Cells that train are looked at after those that do
not, among equals: a training costs more than any look.

This module is pure: it is told records and says what to look at next.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pqbench.core.margins import Margins
from pqbench.core.proportions import drop_p_at_least, drop_p_at_most, drop_upper
from pqbench.core.record import Record
from pqbench.report.between_runs import USUAL

BEYOND_DOUBT = 0.05
SIGMAS = 2.0  # about the same for speeds
WORTH = 0.97  # of the best time: what can at best be that fast is not worth measuring
LEAST_ERROR = 0.02  # of a log ratio, however few the starts and close their ratios
ONE_START = 0.06  # the same where there was one start: what another would give is not seen
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
        trains: Whether its recipe trains, which the first look cuts short.
        prior_ms: Milliseconds that earlier records of this machine promise; None: none is known.
        looks: Looks that it has had.
        pace: By the closest look; None before.
        drop: Lost, gained and all samples by the closest look at the whole recipe; None: unknown.
        dropped: Why it is out; empty while it is in.
        scored_whole: Whether ``drop`` is of all samples: closer looks would find it again.
        holds: Whether it was measured in full and keeps its claims.
    """

    number: int
    overrides: tuple[str, ...]
    group: str
    backend: str
    label: str = ""
    plain: bool = False
    trains: bool = False
    prior_ms: float | None = None
    looks: int = 0
    pace: Pace | None = None
    drop: tuple[int, int, int] | None = None
    dropped: str = ""
    scored_whole: bool = False
    holds: bool = False

    @property
    def name(self) -> str:
        """What tells it from the others; all choices where that was not said."""
        return self.label or " ".join(self.overrides)


@dataclass
class Race:
    """The state of a search.

    Args:
        entrants: The cells.
        looks: How many looks there are. The last is the full measurement, and the one before it
            scores all samples.
        margins: The question.
    """

    entrants: Sequence[Entrant]
    looks: int
    margins: Margins
    base_ms: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def next(self, count: int) -> list[Entrant]:
        """Whom to look at next, at most so many; none when all is decided."""
        waiting = [e for e in self.entrants if not e.dropped and e.looks < self.looks]
        unseen = [e for e in waiting if not e.looks]
        if unseen:
            return sorted(unseen, key=lambda e: (e.trains, e.prior_ms or math.inf, e.number))[
                :count
            ]
        groups: dict[str, list[Entrant]] = defaultdict(list)
        for entrant in waiting:
            groups[entrant.group].append(entrant)
        chosen: list[Entrant] = []
        for members in groups.values():
            members.sort(key=self._promise)
        while len(chosen) < count and any(groups.values()):
            chosen += [members.pop(0) for members in groups.values() if members]
        return chosen[:count]

    def references(self) -> list[Entrant]:
        """What runs today in each group with an answer, where it was not measured in full."""
        wanted = self.margins.reference or "torch"
        answered = {e.group for e in self.entrants if e.holds}
        return [
            e
            for e in self.entrants
            if e.plain and e.backend == wanted and e.group in answered
            and e.pace is not None and e.looks < self.looks
        ]  # fmt: skip

    def upcoming(self, entrant: Entrant) -> int:
        """Number of the cell's next look, from 0.

        What leads, and was scored on all samples, goes on to the full measurement: the look before
        it would score nothing new, and there is no time yet to compare its own with more closely.
        """
        before_last = self.looks - 2
        leads = not any(e.holds for e in self.entrants if e.group == entrant.group)
        skips = entrant.looks == before_last > 0 and entrant.scored_whole and leads
        return entrant.looks + skips

    def tell(self, entrant: Entrant, record: Record | None, look: int | None = None) -> None:
        """What a look gave.

        Args:
            entrant: The cell.
            record: Of the look; None where it left none.
            look: Its number, from 0; None: the cell's next one.
        """
        shortened = entrant.trains and entrant.looks == 0
        entrant.looks = (entrant.looks if look is None else look) + 1
        if record is None or not record.ok:
            why = record.error.message if record is not None and record.error else "no record"
            entrant.dropped = f"{record.status if record else 'failed'}: {why}"
            return
        self._learn_pace(entrant, record)
        if shortened:
            return
        against = record.accuracy.against_baseline if record.accuracy else None
        if record.accuracy and against and against.lost is not None and against.gained is not None:
            entrant.drop = (against.lost, against.gained, record.accuracy.count)
            limit = (record.config.get("protocol") or {}).get("score_limit")
            entrant.scored_whole = limit is None or record.accuracy.count < limit
        looked = record.accuracy.faithfulness if record.accuracy else None
        if looked and looked.faults:
            entrant.dropped = looked.faults[0]
        entrant.holds = entrant.looks == self.looks and not entrant.dropped and self._keeps(entrant)

    def settle(self) -> list[Entrant]:
        """Drop whoever is shown not to be the answer; gives those that fell this time."""
        before = {e.number for e in self.entrants if e.dropped}
        for entrant in self.entrants:
            if not entrant.dropped:
                entrant.dropped = (
                    self._too_lossy(entrant) or self._too_slow(entrant) or self._may_lose(entrant)
                )
        return [e for e in self.entrants if e.dropped and e.number not in before]

    def milliseconds(self, entrant: Entrant) -> tuple[float, float, float] | None:
        """Estimate and both ends of a cell's time per call; None before its first look."""
        if entrant.pace is None:
            return None
        log = self._level(entrant) - entrant.pace.ratio
        reach = SIGMAS * math.hypot(entrant.pace.error, self._level_error(entrant))
        return math.exp(log), math.exp(log - reach), math.exp(log + reach)

    # -- evidence --------------------------------------------------------------------------------

    def _learn_pace(self, entrant: Entrant, record: Record) -> None:
        if record.is_baseline:
            first = min(record.latency, key=lambda x: x.batch_size, default=None)
            if first is None:
                return
            entrant.pace = Pace(0.0, 0.0, math.log(first.p50_ms))
        else:
            gain = min(record.speedup, key=lambda x: x.batch_size, default=None)
            if gain is None or gain.ratio <= 0:
                return
            logs = [math.log(ratio) for ratio in gain.start_ratios if ratio > 0]
            error = ONE_START
            if len(logs) > 1:
                error = max(statistics.stdev(logs), LEAST_ERROR) / math.sqrt(len(logs))
            if gain.disturbed:
                error = max(error, DISTURBED)
            entrant.pace = Pace(math.log(gain.ratio), error, math.log(gain.baseline_p50_ms))
        self.base_ms[entrant.group, entrant.backend].append(entrant.pace.base)

    def _level(self, entrant: Entrant) -> float:
        """Log of FP32's time on the cell's runtime: the median of all runs so far."""
        return statistics.median(self.base_ms[entrant.group, entrant.backend])

    def _level_error(self, entrant: Entrant) -> float:
        runs = len(self.base_ms[entrant.group, entrant.backend])
        return USUAL.deviation / math.sqrt(runs)

    def _promise(self, entrant: Entrant) -> tuple[bool, bool, float, int]:
        """Less is better: what trains, and what seems to lose too much, behind; then by time."""
        times = self.milliseconds(entrant)
        lost, gained, count = entrant.drop or (0, 0, 1)
        lossy = 100 * (lost - gained) / count > self.margins.max_drop_pt
        lossy = lossy or (self._scored_whole(entrant) and not self._keeps_drop(entrant))
        return entrant.trains, lossy, times[0] if times else math.inf, entrant.number

    def _too_lossy(self, entrant: Entrant) -> str:
        if entrant.drop is None or not sum(entrant.drop[:2]):
            return ""
        margin = self.margins.max_drop_pt
        if drop_p_at_most(*entrant.drop, margin / 100) >= BEYOND_DOUBT:
            return ""
        lost, gained, count = entrant.drop
        drop_pt = 100 * (lost - gained) / count
        return f"loses more than {margin:g} points: {drop_pt:.1f} on {count} samples"

    def _may_lose(self, entrant: Entrant) -> str:
        """What was scored on all samples is not shown to keep the margin by timing it longer."""
        if entrant.drop is None or not self._scored_whole(entrant) or self._keeps_drop(entrant):
            return ""
        other = next((e for e in self.entrants if e.holds and e.group == entrant.group), None)
        if other is None:
            return ""  # nobody keeps it yet: how far this one is from it may be the answer
        bound = 100 * drop_upper(*entrant.drop, 1 - self._alpha)
        return (
            f"may lose up to {bound:.1f} points on all {entrant.drop[2]} samples, and "
            f"{other.name} keeps its claims"
        )

    @property
    def _alpha(self) -> float:
        """Of one claim, so that all of all cells hold together; the report's Holm is kinder."""
        return (1 - self.margins.confidence) / (2 * len(self.entrants))

    def _scored_whole(self, entrant: Entrant) -> bool:
        """Whether its last look scored what the full measurement will: the same predictions."""
        return entrant.drop is not None and entrant.scored_whole

    def _keeps_drop(self, entrant: Entrant) -> bool:
        return entrant.drop is None or (
            drop_p_at_least(*entrant.drop, self.margins.max_drop_pt / 100) < self._alpha
        )

    def _too_slow(self, entrant: Entrant) -> str:
        if entrant.pace is None or entrant.holds:
            return ""
        reach = SIGMAS * entrant.pace.error
        if entrant.pace.error and entrant.pace.ratio + reach < math.log(self.margins.min_speedup):
            return (
                f"slower than {self.margins.min_speedup:g} times FP32 on its runtime: at best "
                f"{math.exp(entrant.pace.ratio + reach):.2f} times"
            )
        for other in self.entrants:
            if other.holds and other.group == entrant.group and other is not entrant:
                gap, error = self._behind(entrant, other)
                if gap - SIGMAS * error > math.log(WORTH):
                    return (
                        f"{math.exp(gap):.2f} times the time of {other.name}, at best "
                        f"{math.exp(gap - SIGMAS * error):.2f} times, and that one keeps its claims"
                    )
        return ""

    def _behind(self, entrant: Entrant, other: Entrant) -> tuple[float, float]:
        """Log of the cell's time over another's, and its error; levels cancel on one runtime."""
        assert entrant.pace is not None and other.pace is not None
        gap = other.pace.ratio - entrant.pace.ratio
        error = math.hypot(entrant.pace.error, other.pace.error)
        if entrant.backend == other.backend:
            return gap, error
        levels = self._level(entrant) - self._level(other)
        return gap + levels, math.hypot(error, self._level_error(entrant), self._level_error(other))

    def _keeps(self, entrant: Entrant) -> bool:
        """Whether its claims hold; the report has the last word."""
        faster = entrant.pace is not None and (
            not entrant.pace.error  # FP32 on a runtime of its own
            or entrant.pace.ratio - 2 * entrant.pace.error > math.log(self.margins.min_speedup)
        )
        if entrant.drop is None:
            return faster and entrant.pace is not None and not entrant.pace.error
        return faster and self._keeps_drop(entrant)
