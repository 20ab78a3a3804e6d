"""Do two measurements of the same experiment agree? For ``pqbench.compare`` and ``.reproduce``.

A figure is judged by both intervals together, as wide as their errors add up. Speedups come from
alternating blocks and carry over from one run to the next. A latency alone does not: it changes
between runs of the same program by what no interval from inside one run can know. So a latency is
judged by the variation between runs (:mod:`pqbench.report.between_runs`), and is allowed a stated
share on top. A speedup of one start is not judged. All p values are corrected by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pqbench.core.proportions import drop_p_at_most, mcnemar_p
from pqbench.core.record import Record
from pqbench.core.statistics import Normal, t_quantile
from pqbench.report.between_runs import USUAL, Spread
from pqbench.report.rows import MIB, Estimate
from pqbench.report.significance import ALPHA, difference_p, holm, ratio_p

if TYPE_CHECKING:
    from rich.console import Console

SAME, BETTER, WORSE, UNTRUSTED = "agrees", "better", "worse", "not to be trusted"
LATENCY_ALLOWANCE = 0.05  # share by which a median may change between two runs of one program
MEMORY_ALLOWANCE = 0.10
_MANY = 1e6  # degrees of freedom that are as good as a normal distribution's


@dataclass(frozen=True)
class Allowances:
    """What may change for no reason of ours.

    Attributes:
        latency: Share of a median latency.
        memory: Share of the peak resident memory.
        speedup: Share of a speedup.
        accuracy_pt: Percentage points of accuracy.
    """

    latency: float = LATENCY_ALLOWANCE
    memory: float = MEMORY_ALLOWANCE
    speedup: float = 0.02
    accuracy_pt: float = 0.0


@dataclass(frozen=True)
class Figure:
    """One figure in both measurements.

    Attributes:
        name: What it is, with its unit.
        before: In the first.
        after: In the second.
        p: That the difference is within noise and allowance, after Holm's correction; None where
            the figure is exact.
        verdict: ``agrees``, ``better``, ``worse`` or ``not to be trusted``.
        why: For the last.
    """

    name: str
    before: Estimate
    after: Estimate
    p: float | None
    verdict: str
    why: str = ""

    @property
    def change(self) -> float:
        """After over before, minus 1; 0 where before is 0."""
        return self.after.value / self.before.value - 1 if self.before.value else 0.0


def compare_records(
    before: Record,
    after: Record,
    allowances: Allowances = Allowances(),
    spread: Spread = USUAL,
) -> list[Figure]:
    """Every figure that both have, judged.

    Args:
        before: The reference.
        after: What is judged.
        allowances: What may change for no reason of ours.
        spread: How much a median varies from run to run.
    """
    return adjusted(list(figures(before, after, allowances, spread)))


def adjusted(found: Sequence[Figure]) -> list[Figure]:
    """The same with p values corrected over all of them, and verdicts that follow."""
    tested = [i for i, f in enumerate(found) if f.p is not None and f.verdict != UNTRUSTED]
    corrected = dict(zip(tested, holm([found[i].p or 0.0 for i in tested]), strict=True))
    return [
        replace(f, p=corrected[i], verdict=f.verdict if corrected[i] < ALPHA else SAME)
        if i in corrected
        else f
        for i, f in enumerate(found)
    ]


def same_yardstick(before: Record, after: Record) -> bool:
    """Whether both speedups are over the same model on the same runtime."""
    one, two = before.experiment, after.experiment
    return (one.model, one.backend) == (two.model, two.backend)


def figures(
    before: Record,
    after: Record,
    allowances: Allowances,
    spread: Spread = USUAL,
    flips: tuple[int, int, int] | None = None,
) -> Iterator[Figure]:
    """Uncorrected.

    Args:
        before: The reference.
        after: What is judged.
        allowances: What may change for no reason of ours.
        spread: How much a median varies from run to run.
        flips: Samples that only the first has right, that only the second has, and all, where
            both answered the same ones.
    """
    for old in before.latency:
        new = after.latency_at(old.batch_size)
        if new is None:
            continue
        pair = [
            Estimate(x.p50_ms, x.p50_low_ms, x.p50_high_ms, x.processes - 1) for x in (old, new)
        ]
        why = "; ".join(x.unstable_reason for x in (old, new) if not x.stable)
        name = f"median latency at batch {old.batch_size} [ms]"
        yield _median(name, pair[0], pair[1], allowances.latency, spread, why)
    for old_gain in before.speedup:
        new_gain = after.speedup_at(old_gain.batch_size)
        if new_gain is None or not same_yardstick(before, after):
            continue
        pair = [
            Estimate(x.ratio, x.low, x.high, max(len(x.start_ratios) - 1, 0))
            for x in (old_gain, new_gain)
        ]
        why = "disturbed" if old_gain.disturbed or new_gain.disturbed else ""
        why = why or ("one start decides nothing" if any(x.dof == 0 for x in pair) else "")
        name = f"speedup at batch {old_gain.batch_size}"
        yield _ratio(name, pair[0], pair[1], allowances.speedup, False, why)
    if before.accuracy and after.accuracy:
        pair = [Estimate(*a.primary).scaled(100) for a in (before.accuracy, after.accuracy)]
        name = f"{before.accuracy.metric_name} [%]"
        if flips is not None and before.accuracy.metric == after.accuracy.metric == "top1":
            yield _paired(name, pair[0], pair[1], flips, allowances.accuracy_pt)
        else:
            yield _difference(name, pair[0], pair[1], allowances.accuracy_pt)
    if before.size.file_bytes and after.size.file_bytes:
        sizes = [_exact(x.size.file_bytes / MIB) for x in (before, after) if x.size.file_bytes]
        yield _exactly("size of the files [MiB]", sizes[0], sizes[1], 0.001, less_is_better=True)
    if before.memory.rss_peak_mb and after.memory.rss_peak_mb:
        peaks = [_exact(x.memory.rss_peak_mb or 0.0) for x in (before, after)]
        name = "peak memory of the process [MiB]"
        yield _exactly(name, peaks[0], peaks[1], allowances.memory, less_is_better=True)
    if before.placement and after.placement:
        shares = [x.placement.int8_share for x in (before, after) if x.placement]
        if None not in shares:
            pair = [_exact(100 * (share or 0.0)) for share in shares]
            yield _exactly("INT8 share [%]", pair[0], pair[1], 0.001, less_is_better=False)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _ratio(
    name: str, old: Estimate, new: Estimate, allowance: float, less_is_better: bool, why: str
) -> Figure:
    """Judge a positive figure; only what lies beyond the allowance counts against it."""
    if why:
        return Figure(name, old, new, None, UNTRUSTED, why)
    if min(old.value, new.value) <= 0:
        return Figure(name, old, new, None, UNTRUSTED, "not positive")
    if 0 in (old.dof, new.dof):
        return Figure(name, old, new, None, UNTRUSTED, "one start: another may differ")
    change = math.log(new.value / old.value)
    beyond = max(0.0, abs(change) - math.log1p(allowance))
    shift = math.exp(math.copysign(abs(change) - beyond, change))
    p = ratio_p(new, old.scaled(shift)) if beyond > 0 else 1.0
    verdict = SAME if beyond == 0 else BETTER if (change < 0) == less_is_better else WORSE
    return Figure(name, old, new, p, verdict)


def _median(
    name: str, old: Estimate, new: Estimate, allowance: float, spread: Spread, why: str
) -> Figure:
    """Judge a latency: what lies beyond the allowance, against the variation between runs."""
    if why:
        return Figure(name, old, new, None, UNTRUSTED, why)
    change = math.log(new.value / old.value)
    beyond = math.copysign(max(0.0, abs(change) - math.log1p(allowance)), change)
    if beyond == 0:
        return Figure(name, old, new, 1.0, SAME)
    inside = [math.log(x.high / x.low) / 2 / t_quantile(0.975, _MANY) for x in (old, new)]
    between = Normal(0.0, math.sqrt(2) * spread.deviation, spread.dof)
    p = Normal(beyond, math.hypot(*inside), _MANY).minus(between).p_equal()
    return Figure(name, old, new, p, BETTER if change < 0 else WORSE)


def _paired(
    name: str, old: Estimate, new: Estimate, flips: tuple[int, int, int], allowance: float
) -> Figure:
    """Judge an accuracy on the same samples: exact McNemar, or Tango's test beyond an allowance."""
    lost, gained, count = flips
    if abs(lost - gained) / count * 100 <= allowance:
        return Figure(name, old, new, 1.0, SAME)
    more, less = (lost, gained) if lost > gained else (gained, lost)
    p = mcnemar_p(lost, gained)
    if allowance:
        p = min(1.0, 2 * drop_p_at_most(more, less, count, allowance / 100))
    return Figure(name, old, new, p, WORSE if lost > gained else BETTER)


def _difference(name: str, old: Estimate, new: Estimate, allowance: float) -> Figure:
    """Judge an accuracy."""
    change = new.value - old.value
    beyond = max(0.0, abs(change) - allowance)
    shift = math.copysign(abs(change) - beyond, change)
    shifted = Estimate(old.value + shift, old.low + shift, old.high + shift)
    p = difference_p(new, shifted) if beyond > 0 else 1.0
    return Figure(name, old, new, p, SAME if beyond == 0 else BETTER if change > 0 else WORSE)


def _exactly(
    name: str, old: Estimate, new: Estimate, allowance: float, less_is_better: bool
) -> Figure:
    """Judge a figure that repeats within a known share."""
    scale = max(abs(old.value), abs(new.value))
    change = new.value - old.value
    if abs(change) <= allowance * scale:
        return Figure(name, old, new, None, SAME)
    return Figure(name, old, new, None, BETTER if (change < 0) == less_is_better else WORSE)


_STYLES = {SAME: "", BETTER: "green", WORSE: "bold red"}


def print_figures(figures: Sequence[Figure], console: Console, names: tuple[str, str]) -> None:
    """One line per figure: both values with their intervals, change, p, verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    for name in (*names, "change", "p (Holm)"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for item in figures:
        verdict = Text(item.verdict, style=_STYLES.get(item.verdict, "yellow"))
        if item.why:
            verdict.append(f" ({item.why})")
        p = "" if item.p is None else "<0.001" if item.p < 0.001 else f"{item.p:.3f}"
        change = f"{100 * item.change:+.1f} %"
        table.add_row(Text(item.name), _shown(item.before), _shown(item.after), change, p, verdict)
    console.print(table)


def _shown(value: Estimate) -> str:
    if value.low == value.high:
        return f"{value.value:.4g}"
    return f"{value.value:.4g} ({value.low:.4g}…{value.high:.4g})"
