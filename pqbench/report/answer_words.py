"""An answer in words: the sentence, why others are not the answer, what would make it surer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from pqbench.core.margins import Margins
from pqbench.core.record import Record
from pqbench.report.answer_cells import Found, cell_name, float_precision
from pqbench.report.claims import Cell, Judged, Kind, Verdict
from pqbench.report.names import backend_name


def answer_sentence(best: Found, reference: Record | None, margins: Margins) -> str:
    """What to deploy, what it gains and costs, and how sure that is."""
    parts = []
    if best.own is not None:
        fast = _speed(best.own)
        if fast:
            plain = float_precision(best.record)
            parts.append(f"at least {fast} as fast as {plain} on the same runtime")
    same = best.against is best.own
    if best.against is not None and reference is not None and not same:
        fast = _speed(best.against)
        if fast:
            today = backend_name(reference.experiment.backend)
            more = "at least " if not parts else ""
            parts.append(f"{more}{fast} as fast as {today} in {float_precision(reference)}")
    text = " and ".join(parts)
    ratio = best.record.size.file_ratio
    if ratio is not None:
        text += f", {ratio:.0%} of the size"
    drop = best.deciding.claim(Kind.DROP) if best.deciding else None
    if drop is not None and drop.bound is not None:
        text += f", at most {max(drop.bound, 0):.1f} points lost"
    elif drop is None:
        text += ", the same answer to every sample"
    sure = f"{margins.confidence:.0%}, all claims together"
    return f"Of what was tried on this machine: {best.name}; {text} ({sure})."


def _speed(cell: Cell) -> str:
    """``2.0 times (batch 1) and 1.8 (batch 16)``; the bounds that may be quoted together."""
    bounds = [j for j in cell.claims if j.claim.kind is Kind.SPEEDUP and j.bound is not None]
    if not bounds:
        return ""
    if len(bounds) == 1:
        return f"{_floor(bounds[0])} times"
    first, *rest = bounds
    more = ", ".join(f"{_floor(j)} (batch {j.claim.batch_size})" for j in rest)
    return f"{_floor(first)} times (batch {first.claim.batch_size}), {more},"


def _floor(judged: Judged) -> str:
    """A lower bound is rounded down."""
    return f"{math.floor(100 * (judged.bound or 0.0)) / 100:.2f}"


def stay_sentence(
    found: Sequence[Found], group: Sequence[Record], reference: Record | None, margins: Margins
) -> str:
    """Why nothing that was tried is the answer."""
    today = reference or next((r for r in group if r.ok and r.is_baseline), None)
    plain = float_precision(today) if today else "FP32"
    if today is not None:
        plain += f" on {backend_name(today.experiment.backend)}"
    compressed = [f for f in found if f.record.experiment.recipe]
    if not compressed:
        why = "no compressed model gave a result"
    else:
        tally: Counter[str] = Counter(_why_not(f)[0] for f in compressed)
        why = "; ".join(f"{count} of {len(compressed)} {reason}" for reason, count in tally.items())
    sure = f"({margins.confidence:.0%}, all claims together)"
    asked = (
        f"at most {margins.max_drop_pt:g} point{'s' if margins.max_drop_pt != 1 else ''} lost and "
        f"at least {margins.min_speedup:g} times as fast"
    )
    return f"Stay with {plain}: nothing that was tried is shown to keep {asked} {sure}: {why}."


def _why_not(found: Found) -> tuple[str, str]:
    """Why a cell is not the answer: a short class of reasons, and the line."""
    cell = found.own or found.against
    if cell is None:
        return "has no baseline", "not compared with anything"
    if cell.faults:
        unsure = cell.faults[0].startswith("not shown")
        return ("not shown to work" if unsure else "stopped working"), cell.faults[0]
    for other in (found.own, found.against):
        for judged in other.claims if other else ():
            if judged.verdict is Verdict.FAILS:
                return _failed(judged)
    for other in (found.own, found.against):
        for judged in other.claims if other else ():
            if judged.verdict is Verdict.UNDECIDED:
                needs = f": {judged.needs}" if judged.needs else ""
                what = "loss" if judged.claim.kind is Kind.DROP else "speed"
                return "undecided", f"{what} undecided{needs}"
    return "slower than the best", "slower than the best"


def _failed(judged: Judged) -> tuple[str, str]:
    if judged.claim.kind is Kind.DROP:
        return "lost too much", f"loses {judged.estimate:.1f} points"
    return (
        "too slow",
        f"{judged.estimate:.2f} times as fast at batch {judged.claim.batch_size}",
    )


def other_lines(
    rest: Sequence[Found],
    group: Sequence[Record],
    best: Found | None,
    timed: Collection[str] | None = None,
) -> list[str]:
    """What was tried and is not the answer, one line each; failures last.

    Args:
        rest: What was tried and is neither the answer nor equal to it.
        group: All records of that model and data set.
        best: The answer.
        timed: Backends of which something was timed beside the reference; None if nothing was.
    """
    lines = []
    for found in rest:
        if not found.record.experiment.recipe and found.against is None:
            continue  # a baseline that nothing was claimed of
        _, line = _why_not(found)
        if best is not None and line == "slower than the best":
            told = timed is None or found.record.experiment.backend in timed
            line = f"slower than {best.name}" if told else "not timed beside the reference"
        lines.append(f"{found.name}: {line}")
    failed = [r for r in group if not r.ok and r.status not in ("unsupported", "skipped")]
    for record in failed:
        message = record.error.message if record.error else ""
        first = message.splitlines()[0][:120] if message else ""
        lines.append(f"{cell_name(record)}: {record.status}: {first}")
    return lines


def surer_command(found: Sequence[Found]) -> tuple[str, str]:
    """The command that would decide the most promising undecided cell, and what that cell lacks."""
    wanted: list[tuple[float, Found, Judged, str, float]] = []
    for one in found:
        cell = one.own
        if cell is None or cell.faults or not one.record.experiment.recipe:
            continue
        if any(j.verdict is Verdict.FAILS or _unlikely(j) for j in cell.claims):
            continue
        record = one.record
        scored = record.accuracy.count if record.accuracy else 0
        starts = max((len(s.start_ratios) for s in record.speedup), default=1)
        for judged in cell.claims:
            if judged.verdict is not Verdict.UNDECIDED or judged.more is None:
                continue
            if judged.claim.kind is Kind.DROP:
                limited = (record.config.get("dataset") or {}).get("limit") is not None
                if not limited:
                    continue  # every sample was scored already
                more = judged.more / max(scored, 1)
                wanted.append((more, one, judged, "dataset.limit=null", 1.0))
            else:
                more = judged.more / starts
                setting = f"protocol.processes={starts + judged.more}"
                wanted.append((more, one, judged, setting, 1 + more))
    if not wanted:
        return "", ""
    _, one, judged, setting, factor = min(wanted, key=lambda item: item[0])
    minutes = max(1, round(one.record.seconds * factor / 60))
    command = f"{one.record.command} {setting}    # about {minutes} min"
    return command, f"{one.name} lacks {judged.needs}"


def _unlikely(judged: Judged) -> bool:
    """Whether the estimate itself misses the margin: more would rather show that it fails."""
    if judged.estimate is None:
        return True
    if judged.claim.kind is Kind.DROP:
        return judged.estimate > judged.claim.margin
    return judged.estimate < judged.claim.margin
