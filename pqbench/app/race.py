"""``search=best``: which cell is the answer, without measuring all of them in full.

Every cell is looked at cheaply first (one start, four short blocks, no image scored, no training);
then the most promising one is looked at more closely, again and again, until no cell is left that
could still be the answer. So only what is fast enough to matter is ever scored. A cell is dropped
on evidence alone:

* it has no result, or its model is at fault (:attr:`Accuracy.faithfulness`);
* it is shown to lose more than the margin: one-sided p of the drop being within it below
  ``BEYOND_DOUBT`` (the claim itself is judged at the end on the upper bound, as in any sweep);
* scored on all samples it cannot be shown to keep the margin, and another cell does;
* it is shown to be slower than a cell that was measured in full and holds its claims, or not to be
  faster by more than ``WORTH``; or to be slower than the uncompressed model in FP32 on any runtime;
* it is shown to be slower than the margin asks for, beside FP32 on its runtime or beside what
  runs today.

Whether the claims of a cell that was measured in full hold is asked where any report asks it,
:func:`pqbench.report.claims.judge`, at all its batch sizes and with all cells of the space counted.

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
from dataclasses import dataclass, field, replace

from pqbench.app.entrant import Entrant, Pace, error_of
from pqbench.core.margins import Margins
from pqbench.core.record import NOT_BETTER, Record
from pqbench.report.between_runs import USUAL
from pqbench.report.claims import judge
from pqbench.report.evidence import bound_of, evidence_of

BEYOND_DOUBT = 0.05
SIGMAS = 2.0  # about the same for speeds
WORTH = 0.97  # of the best time: what can at best be that fast is not worth measuring


@dataclass
class Race:
    """The state of a search.

    Args:
        entrants: The cells.
        looks: How many looks there are. The last is the full measurement, and the one before it
            scores all samples.
        margins: The question.
        claims: Of each cell: its drop, and its speedup at each batch size.
    """

    entrants: Sequence[Entrant]
    looks: int
    margins: Margins
    claims: int = 2
    base_ms: dict[tuple[str, ...], list[float]] = field(default_factory=lambda: defaultdict(list))

    def next(self, count: int, screening: bool = True) -> list[Entrant]:
        """Whom to look at next, at most so many; none when all is decided.

        Args:
            count: At most so many.
            screening: Whether cells that were not looked at yet come first; else they wait.
        """
        waiting = [e for e in self.entrants if not e.dropped and e.looks < self.looks]
        unseen = [e for e in waiting if not e.looks]
        if unseen and (screening or len(unseen) == len(waiting)):
            return sorted(unseen, key=lambda e: (e.trains, e.prior_ms or math.inf, e.number))[
                :count
            ]
        groups: dict[str, list[Entrant]] = defaultdict(list)
        for entrant in waiting:
            if entrant.looks:
                groups[entrant.group].append(entrant)
        chosen: list[Entrant] = []
        for members in groups.values():
            members.sort(key=self._promise)
        while len(chosen) < count and any(groups.values()):
            chosen += [members.pop(0) for members in groups.values() if members]
        return chosen[:count]

    def references(self, chosen: Sequence[Entrant]) -> list[Entrant]:
        """What runs today in the groups of those about to be measured in full, where it was not.

        It goes before the others: a report takes what was measured first
        (:func:`pqbench.report.answer.reference_of`). Where it is itself the one whose turn it is,
        it needs no look of its own.
        """
        last = {e.number for e in chosen if self.upcoming(e) == self.looks - 1}
        groups = dict.fromkeys(e.group for e in chosen if e.number in last)
        found = [self.reference(group) for group in groups]
        return [e for e in found if e and e.looks < self.looks and e.number not in last]

    def reference(self, group: str) -> Entrant | None:
        """What runs today: uncompressed on ``claim.reference`` or PyTorch.

        Where several runtimes are there without PyTorch, in FP32 on the one named first.
        """
        members = [e for e in self.entrants if e.group == group and e.pace is not None]
        plain = [e for e in members if e.plain]
        named = [e for e in plain if e.backend == (self.margins.reference or "torch")]
        if not named and not self.margins.reference and len({e.backend for e in members}) > 1:
            named = [e for e in plain if e.in_fp32]
        return min(named, key=lambda e: e.number, default=None)

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
        shortened = entrant.trains and entrant.looks == 0 and not look
        entrant.looks = (entrant.looks if look is None else look) + 1
        if record is None or not record.ok:
            why = record.error.message if record is not None and record.error else "no record"
            entrant.dropped = f"{record.status if record else 'failed'}: {why}"
            return
        self._learn_pace(entrant, record)
        if shortened:
            return
        if record.accuracy is not None and record.accuracy.against_baseline is not None:
            found = evidence_of(record, self.margins, ())[0]
            entrant.loss, entrant.count = (None if found.missing else found), record.accuracy.count
            limit = (record.config.get("protocol") or {}).get("score_limit")
            entrant.scored_whole = limit is None or record.accuracy.count < limit
        looked = record.accuracy.faithfulness if record.accuracy else None
        in_full = entrant.looks == self.looks
        for fault in looked.faults if looked else ():
            if entrant.scored_whole or in_full or not fault.startswith(NOT_BETTER):
                entrant.dropped = fault
                return
        if in_full and entrant is not self.reference(entrant.group):
            entrant.holds = self._holds(entrant, record)

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

    @property
    def unseen(self) -> int:
        """Claims that chose without being in a report: drops of cells that were only looked at."""
        return sum(e.loss is not None and e.looks < self.looks for e in self.entrants)

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
            entrant.pace = Pace(
                math.log(gain.ratio), error_of(gain), math.log(gain.baseline_p50_ms)
            )
        self.base_ms[entrant.base].append(entrant.pace.base)

    def _level(self, entrant: Entrant) -> float:
        """Log of FP32's time on the cell's runtime: the median of all runs so far."""
        return statistics.median(self.base_ms[entrant.base])

    def _level_error(self, entrant: Entrant) -> float:
        return USUAL.deviation / math.sqrt(len(self.base_ms[entrant.base]))

    def _promise(self, entrant: Entrant) -> tuple[bool, bool, float, int]:
        """Less is better: what trains, and what seems to lose too much, behind; then by time."""
        times = self.milliseconds(entrant)
        loss = entrant.loss
        lossy = loss is not None and (loss.estimate or 0.0) > self.margins.max_drop_pt
        lossy = lossy or (entrant.scored_whole and not self._keeps_drop(entrant))
        return entrant.trains, lossy, times[0] if times else math.inf, entrant.number

    def _too_lossy(self, entrant: Entrant) -> str:
        if entrant.loss is None or entrant.loss.p_fails >= BEYOND_DOUBT:
            return ""
        margin = self.margins.max_drop_pt
        return (
            f"loses more than {margin:g} points: {entrant.loss.estimate:.1f} on "
            f"{entrant.count} samples"
        )

    def _may_lose(self, entrant: Entrant) -> str:
        """What was scored on all samples is not shown to keep the margin by timing it longer."""
        if entrant.loss is None or not entrant.scored_whole or self._keeps_drop(entrant):
            return ""
        other = next((e for e in self.entrants if e.holds and e.group == entrant.group), None)
        if other is None:
            return ""  # nobody keeps it yet: how far this one is from it may be the answer
        bound = bound_of(entrant.loss, 1 - self._alpha(entrant))
        return (
            f"may lose up to {bound:.1f} points on all {entrant.count} samples, and "
            f"{other.name} keeps its claims"
        )

    def _family(self, entrant: Entrant) -> int:
        """Claims of other cells that are judged with this one's, or may yet be.

        The full measurement times anew, so cells that were dropped for their speed alone chose
        nothing; what was scored was chosen among by the very samples that are scored at the end.
        """
        count = 0
        for other in self.entrants:
            if other is not entrant and (other.loss is not None or not other.dropped):
                count += self.claims if other.looks == self.looks else 1
        return count

    def _alpha(self, entrant: Entrant) -> float:
        """Of one claim, so that all hold together (Holm's first step)."""
        return (1 - self.margins.confidence) / (self.claims + self._family(entrant))

    def _keeps_drop(self, entrant: Entrant) -> bool:
        return entrant.loss is None or entrant.loss.p_holds < self._alpha(entrant)

    def _too_slow(self, entrant: Entrant) -> str:
        if entrant.pace is None or entrant.holds:
            return ""
        asked = self._own_margins(entrant).min_speedup
        at_best = entrant.pace.ratio + SIGMAS * entrant.pace.error
        if entrant.pace.error and at_best < math.log(asked):
            return (
                f"slower than {asked:g} times FP32 on its runtime: at best "
                f"{math.exp(at_best):.2f} times"
            )
        today = self.reference(entrant.group)
        if today is not None and today.base != entrant.base:
            gap, error = self._behind(entrant, today)
            if SIGMAS * error - gap < math.log(self.margins.min_speedup):
                return (
                    f"at best {math.exp(SIGMAS * error - gap):.2f} times as fast as what runs "
                    f"today, {today.name}"
                )
        for other in self.entrants:
            if other.group != entrant.group or other is entrant or not self._safe(other):
                continue
            gap, error = self._behind(entrant, other)
            # What was not measured in full must be ahead beyond doubt; from the other it is enough
            # that this one cannot be ahead by what is worth measuring.
            if gap - SIGMAS * error > (math.log(WORTH) if other.holds else 0.0):
                why = "that one keeps its claims" if other.holds else "FP32 loses nothing"
                return (
                    f"{math.exp(gap):.2f} times the time of {other.name}, at best "
                    f"{math.exp(gap - SIGMAS * error):.2f} times, and {why}"
                )
        return ""

    @staticmethod
    def _safe(other: Entrant) -> bool:
        """Whether it may be the answer whatever else is found.

        It holds its claims, or is the very model in FP32, which has no loss to be shown.
        """
        plain = other.plain and other.in_fp32 and other.pace is not None and not other.dropped
        return other.holds or plain

    def _behind(self, entrant: Entrant, other: Entrant) -> tuple[float, float]:
        """Log of the cell's time over another's, and its error; levels cancel on one runtime."""
        assert entrant.pace is not None and other.pace is not None
        gap = other.pace.ratio - entrant.pace.ratio
        error = math.hypot(entrant.pace.error, other.pace.error)
        if entrant.base == other.base:
            return gap, error
        levels = self._level(entrant) - self._level(other)
        return gap + levels, math.hypot(error, self._level_error(entrant), self._level_error(other))

    def _own_margins(self, entrant: Entrant) -> Margins:
        """The question beside FP32 on its own runtime.

        Where what runs today is another runtime, so many times as fast is asked of the ratio to
        that; a recipe must then only not be slower than its own FP32, which loses nothing.
        """
        today = self.reference(entrant.group)
        if today is None or today.base == entrant.base:
            return self.margins
        return replace(self.margins, min_speedup=min(1.0, self.margins.min_speedup))

    def _holds(self, entrant: Entrant, record: Record) -> bool:
        """Whether its claims hold as in the report, beside FP32 on its own runtime."""
        today = self.reference(entrant.group)
        if today is not None and today.base != entrant.base:
            gap, error = self._behind(entrant, today)
            if -gap - SIGMAS * error < math.log(self.margins.min_speedup):
                return False  # the turns beside it have the last word
        if record.is_baseline:
            return entrant.in_fp32  # what another precision loses is seen beside the reference
        judged = judge([record], self._own_margins(entrant), unseen=self._family(entrant))
        return judged[0].answerable
