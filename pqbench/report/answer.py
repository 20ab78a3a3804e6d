"""The answer of a sweep: what to deploy, what it gains and costs, how sure, or why nothing.

For each model and data set among the records there is one :class:`Answer`. Candidates are the cells
whose claims hold against the reference (what runs today: PyTorch in FP32, or what
``claim.reference`` names), timed beside it in turns; where no such pairing was made, those whose
claims hold against FP32 on their own runtime. All claims of all cells are judged together
(:mod:`pqbench.report.claims`), so the sentence is wrong in at most 5 of 100 sweeps at 95 %.

This module is pure: records in, an :class:`Answer` out; :func:`to_plain` is ``answer.json``.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.core.statistics import Normal, mean_of
from pqbench.report.claims import Cell, Judged, Kind, Verdict, judge
from pqbench.report.names import backend_name, dataset_name, model_name

MANY = 4  # reasons that are listed one by one


@dataclass(frozen=True)
class Found:
    """A cell that is, or could be, the answer.

    Attributes:
        record: What was measured.
        own: Its claims against FP32 on its own runtime; None for an FP32 model.
        against: Its claims against the reference; None where it was not paired with it.
    """

    record: Record
    own: Cell | None
    against: Cell | None

    @property
    def name(self) -> str:
        """``nncf_int8 on OpenVINO``."""
        recipe = "+".join(self.record.experiment.recipe) or "FP32"
        return f"{recipe} on {backend_name(self.record.experiment.backend)}"

    @property
    def deciding(self) -> Cell | None:
        """The claims that decide: against the reference where there are some."""
        return self.against or self.own


@dataclass(frozen=True)
class Answer:
    """What a sweep says of one model on one data set.

    Attributes:
        model: Name of the model.
        dataset: Name of the data set.
        margins: The question.
        best: The answer; None: stay with what runs today.
        reference: What runs today; None where it is not among the records.
        sentence: The answer in one sentence.
        equals: Cells whose claims hold as well and that cannot be told from the best.
        others: What was tried and is not the answer, in one line each.
        surer: What would make it surer: a command, and about how long it takes; empty if nothing.
        lacks: The same without the command: which experiment lacks what.
        tried: Cells that were tried, the reference included.
    """

    model: str
    dataset: str
    margins: Margins
    best: Found | None
    reference: Record | None
    sentence: str
    equals: tuple[Found, ...] = ()
    others: tuple[str, ...] = ()
    surer: str = ""
    lacks: str = ""
    tried: int = 0


def answers(
    records: Sequence[Record],
    pairings: Sequence[Pairing] = (),
    margins: Margins | None = None,
    unseen: int = 0,
) -> list[Answer]:
    """One answer for each model and data set that was compressed or searched, in their order.

    Args:
        records: Of a sweep or a report; the newest of each experiment.
        pairings: Candidates timed beside the reference.
        margins: The question; None: the usual one.
        unseen: Cells that a search dropped before they were measured in full.
    """
    margins = margins or Margins()
    cells = _cells(records, pairings, margins, unseen)
    return [
        _answer(group, cells, margins)
        for group in _groups(records).values()
        if unseen or any(not record.is_baseline for record in group) or len(group) > 1
    ]


def finalists(records: Sequence[Record], margins: Margins) -> list[tuple[Record, Record]]:
    """Which cells are worth timing beside the reference: candidate and reference, each pair.

    Of each other backend the FP32 model, and of the compressed ones that keep their claims there
    those that cannot be told from the fastest.
    """
    own = {cell.record.fingerprint: cell for cell in judge(records, margins)}
    pairs = []
    for group in _groups(records).values():
        reference = reference_of(group, margins)
        if reference is None:
            continue
        by_backend: dict[str, list[Record]] = {}
        for record in group:
            if record.ok and record.experiment.backend != reference.experiment.backend:
                by_backend.setdefault(record.experiment.backend, []).append(record)
        for there in by_backend.values():
            good = [
                Found(r, own[r.fingerprint], None)
                for r in there
                if r.fingerprint in own and own[r.fingerprint].answerable
            ]
            good.sort(key=_rank, reverse=True)
            chosen = [f.record for f in good if not _slower(f, good[0])]
            plain = [r for r in there if r.is_baseline]
            pairs += [(record, reference) for record in (*plain, *chosen)]
    return pairs


def _groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of each model and data set."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.experiment.model, record.experiment.dataset), []).append(record)
    return groups


def reference_of(records: Sequence[Record], margins: Margins) -> Record | None:
    """What runs today, among the records of one model and data set: FP32 on one backend."""
    wanted = margins.reference or "torch"
    return next(
        (r for r in records if r.ok and r.is_baseline and r.experiment.backend == wanted), None
    )


@dataclass(frozen=True)
class _Cells:
    """All claims of a report, judged together; by the experiment's fingerprint."""

    own: Mapping[str, Cell]
    against: Mapping[str, Cell]


def _cells(
    records: Sequence[Record], pairings: Sequence[Pairing], margins: Margins, unseen: int
) -> _Cells:
    by_name = {record.fingerprint: record for record in records if record.ok}
    stood_in = []
    for pairing in pairings:
        record = by_name.get(pairing.candidate)
        if record is not None and pairing.reference in by_name:
            stood_in.append(_beside_reference(record, pairing))
    each = max((1 + len(record.speedup) for record in records if record.ok), default=2)
    judged = judge([*records, *stood_in], margins, unseen=unseen * each)
    own: dict[str, Cell] = {}
    against: dict[str, Cell] = {}
    marked = {id(record) for record in stood_in}
    for cell in judged:
        target = against if id(cell.record) in marked else own
        if target is against and _same_answers(by_name[cell.record.fingerprint], cell):
            claims = tuple(j for j in cell.claims if j.claim.kind is not Kind.DROP)
            cell = dataclasses.replace(cell, claims=claims)
        target[cell.record.fingerprint] = cell
    return _Cells(own, against)


def _same_answers(record: Record, cell: Cell) -> bool:
    """Whether it is the very model, uncompressed, and answered every sample as the reference did.

    Parity with the source was proved when it was converted, so there is no loss to be claimed.
    """
    accuracy = cell.record.accuracy
    compared = accuracy.against_baseline if accuracy else None
    return record.is_baseline and compared is not None and compared.agreement == 1.0


def _beside_reference(record: Record, pairing: Pairing) -> Record:
    """The record with the reference in its baseline's place; FP32 counts as a recipe then."""
    accuracy = record.accuracy
    if accuracy is not None:
        accuracy = dataclasses.replace(accuracy, against_baseline=pairing.against)
    experiment = record.experiment
    if not experiment.recipe:
        experiment = dataclasses.replace(experiment, recipe=["FP32"])
    return dataclasses.replace(
        record, experiment=experiment, speedup=pairing.speedup, accuracy=accuracy
    )


def _answer(group: Sequence[Record], cells: _Cells, margins: Margins) -> Answer:
    reference = reference_of(group, margins)

    def against(record: Record) -> Cell | None:
        if reference is not None and record.baseline == reference.fingerprint:
            return cells.own.get(record.fingerprint)  # the reference is its baseline
        return cells.against.get(record.fingerprint)

    found = [
        Found(r, cells.own.get(r.fingerprint), against(r))
        for r in group
        if r.ok and (reference is None or r.fingerprint != reference.fingerprint)
    ]
    paired = any(f.against is not None for f in found)
    good = [f for f in found if _keeps(f, paired)]
    good.sort(key=_rank, reverse=True)
    best = good[0] if good else None
    equals = tuple(f for f in good[1:] if best is not None and not _slower(f, best))
    sentence = (
        _sentence(best, reference, margins) if best else _stay(found, group, reference, margins)
    )
    named = {id(best), *(id(f) for f in equals)}
    command, lacks = _surer(found)
    return Answer(
        model=group[0].experiment.model,
        dataset=group[0].experiment.dataset,
        margins=margins,
        best=best,
        reference=reference,
        sentence=sentence,
        equals=equals,
        others=tuple(_others([f for f in found if id(f) not in named], group, best)),
        surer=f"{command}; {lacks}" if command else "",
        lacks=lacks,
        tried=len({r.fingerprint for r in group}),
    )


def _keeps(found: Found, paired: bool) -> bool:
    """Whether every claim that decides holds, and no fault was found."""
    deciding = found.against if paired else found.own
    if deciding is None or not deciding.answerable:
        return False
    drop = found.own.claim(Kind.DROP) if found.own is not None else None
    return drop is None or drop.verdict is Verdict.HOLDS


def _log_ratio(found: Found) -> Normal | None:
    """Mean log speedup of the first batch size, with its error."""
    cell = found.deciding
    speedups = sorted(cell.record.speedup, key=lambda s: s.batch_size) if cell else []
    return mean_of([math.log(r) for r in speedups[0].start_ratios]) if speedups else None


def _rank(found: Found) -> float:
    """Lowest bound of the speedups that decide."""
    cell = found.deciding
    assert cell is not None  # only what keeps its claims is ranked
    bounds = [j.bound or 0.0 for j in cell.claims if j.claim.kind is Kind.SPEEDUP]
    return min(bounds, default=0.0)


def _slower(other: Found, best: Found) -> bool:
    """Whether it is shown to be slower than the best."""
    ours, theirs = _log_ratio(other), _log_ratio(best)
    if ours is None or theirs is None:
        return False
    return theirs.minus(ours).p_at_most(0.0) < 0.05


def _sentence(best: Found, reference: Record | None, margins: Margins) -> str:
    parts = []
    if best.own is not None:
        fast = _speed(best.own)
        if fast:
            parts.append(f"at least {fast} as fast as FP32 on the same runtime")
    same = best.against is best.own
    if best.against is not None and reference is not None and not same:
        fast = _speed(best.against)
        if fast:
            today = backend_name(reference.experiment.backend)
            more = "at least " if not parts else ""
            parts.append(f"{more}{fast} as fast as {today} in FP32")
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


def _stay(
    found: Sequence[Found], group: Sequence[Record], reference: Record | None, margins: Margins
) -> str:
    today = reference or next((r for r in group if r.ok and r.is_baseline), None)
    where = f" on {backend_name(today.experiment.backend)}" if today else ""
    compressed = [f for f in found if f.record.experiment.recipe]
    if not compressed:
        why = "no compressed model gave a result"
    else:
        tally: Counter[str] = Counter(_why_not(f)[0] for f in compressed)
        why = "; ".join(f"{count} of {len(compressed)} {reason}" for reason, count in tally.items())
    sure = f"{margins.confidence:.0%}, all claims together"
    asked = (
        f"at most {margins.max_drop_pt:g} point{'s' if margins.max_drop_pt != 1 else ''} lost and "
        f"at least {margins.min_speedup:g} times as fast"
    )
    return (
        f"Stay with FP32{where}: nothing that was tried is shown to keep {asked} ({sure}): {why}."
    )


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


def _others(rest: Sequence[Found], group: Sequence[Record], best: Found | None) -> list[str]:
    """What was tried and is not the answer, one line each; failures last."""
    lines = []
    for found in rest:
        if not found.record.experiment.recipe and found.against is None:
            continue  # a baseline that nothing was claimed of
        _, line = _why_not(found)
        if best is not None and line == "slower than the best":
            line = f"slower than {best.name}"
        lines.append(f"{found.name}: {line}")
    failed = [r for r in group if not r.ok and r.status not in ("unsupported", "skipped")]
    for record in failed:
        message = record.error.message if record.error else ""
        recipe = "+".join(record.experiment.recipe) or "FP32"
        first = message.splitlines()[0][:120] if message else ""
        lines.append(
            f"{recipe} on {backend_name(record.experiment.backend)}: {record.status}: {first}"
        )
    return lines


def _surer(found: Sequence[Found]) -> tuple[str, str]:
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


def lines(answer: Answer, commands: bool = True) -> list[str]:
    """The answer for a reader: the sentence first, then what else is worth a line.

    Args:
        answer: What to tell.
        commands: With the command that would make it surer; print has no use for it.
    """
    found = [f"{model_name(answer.model)} on {dataset_name(answer.dataset)}. {answer.sentence}"]
    if answer.equals:
        names = ", ".join(f.name for f in answer.equals)
        found.append(f"Not to be told from it: {names}.")
    shown = answer.others[:MANY]
    if shown:
        found.append("Also tried: " + "; ".join(shown) + ".")
    rest = len(answer.others) - len(shown)
    if rest > 0:
        found.append(f"and {rest} more, each with its reason in the table.")
    if answer.lacks and not commands:
        found.append(f"Not decided for want of data: {answer.lacks}.")
    elif answer.surer:
        found.append(f"Surer: {answer.surer}")
    return found


def to_plain(found: Sequence[Answer]) -> dict[str, Any]:
    """``answer.json``: the first answer under ``answer``, all of them under ``answers``."""
    plain = [_plain(answer) for answer in found]
    first = next((p["best"] for p in plain if p["best"]), None)
    return {"answer": first, "answers": plain}


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "model": answer.model,
        "dataset": answer.dataset,
        "sentence": answer.sentence,
        "margins": dataclasses.asdict(answer.margins),
        "tried": answer.tried,
        "best": _cell(answer.best) if answer.best else None,
        "equals": [_cell(f) for f in answer.equals],
        "reference": answer.reference.fingerprint if answer.reference else None,
        "others": list(answer.others),
        "surer": answer.surer,
    }


def _cell(found: Found) -> dict[str, Any]:
    experiment = found.record.experiment
    return {
        "fingerprint": found.record.fingerprint,
        "name": found.name,
        "recipe": experiment.recipe,
        "backend": experiment.backend,
        "own": _claims(found.own),
        "reference": _claims(found.against),
    }


def _claims(cell: Cell | None) -> list[dict[str, Any]]:
    if cell is None:
        return []
    return [
        {
            "claim": str(j.claim),
            "verdict": j.verdict.value,
            "estimate": j.estimate,
            "bound": j.bound,
            "p": j.p,
            "needs": j.needs,
        }
        for j in cell.claims
    ]
