"""How much a median changes from run to run for no reason of the program's.

The baseline of a sweep is timed again beside every candidate. How far those medians lie apart is
what an unpaired median may differ by: the clock, the neighbours, the placement of memory. The
variance is pooled over all groups and moderated: a sweep with few repetitions leans on what is
usual (Smyth, "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3, 2004).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pqbench.core.record import Record
from pqbench.report.environments import environment_keys


@dataclass(frozen=True)
class Spread:
    """Variation of a log median from run to run.

    Attributes:
        deviation: Its standard deviation.
        dof: Degrees of freedom of that.
    """

    deviation: float
    dof: float


USUAL = Spread(0.05, 4)  # on a shared machine, and what that is worth beside repetitions


def spread_of(sets: Iterable[Sequence[Record]]) -> Spread:
    """The variation that these records show.

    Args:
        sets: Records of one sweep each: between two sweeps the program may have changed, so only
            repetitions within one count.
    """
    squares, dof = _repetitions(sets)
    total = USUAL.dof + dof
    return Spread(math.sqrt((USUAL.dof * USUAL.deviation**2 + squares) / total), total)


def level_note(records: Sequence[Record]) -> str:
    """What a reader of this sweep's latencies must know; empty where they held still.

    Args:
        records: Of one report.

    Returns:
        A sentence where the baselines' repetitions differ by more than ``USUAL``.
    """
    squares, dof = _repetitions([records])
    if dof < 2 or (deviation := math.sqrt(squares / dof)) <= USUAL.deviation:
        return ""
    return (
        "The machine's own speed changed: the same baseline, timed again in this sweep, differs "
        f"by \u00b1{deviation:.0%} (standard deviation of {dof} repetitions). The latencies of a "
        "model on a backend share that; speedups are taken in turns and do not."
    )


def _repetitions(sets: Iterable[Sequence[Record]]) -> tuple[float, int]:
    """Sum of squares of the log medians about their groups' means, and its degrees of freedom."""
    squares, dof = 0.0, 0
    for records in sets:
        groups: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for record, place in zip(records, environment_keys(records), strict=True):
            for gain in record.speedup:
                if not gain.disturbed and gain.baseline_p50_ms > 0:
                    key = (place, record.baseline or "", gain.batch_size)
                    groups[key].append(math.log(gain.baseline_p50_ms))
            if record.is_baseline and record.ok:
                for item in record.latency:
                    if item.stable and item.p50_ms > 0:
                        key = (place, record.fingerprint, item.batch_size)
                        groups[key].append(math.log(item.p50_ms))
        for values in groups.values():
            middle = sum(values) / len(values)
            squares += sum((value - middle) ** 2 for value in values)
            dof += len(values) - 1
    return squares, dof
