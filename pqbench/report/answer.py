"""The answer of a sweep: what to deploy, what it gains and costs, how sure, or why nothing.

For each model and data set among the records there is one :class:`Answer`. Candidates are the cells
whose claims hold against the reference (what runs today: PyTorch in FP32, or what
``claim.reference`` names; see :func:`reference_of`), timed beside it in turns; where no such
pairing was made, those whose claims hold against the uncompressed model on their own runtime. All
claims of all cells are judged together (:mod:`pqbench.report.claims`), so the sentence is wrong in
at most 5 of 100 sweeps at 95 %.

This module is pure: records in, an :class:`Answer` out; :func:`to_plain` is ``answer.json``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.core.statistics import Normal, mean_of
from pqbench.report.answer_cells import Cells, Found, float_precision, judge_cells
from pqbench.report.answer_words import (
    answer_sentence,
    other_lines,
    stay_sentence,
    surer_command,
)
from pqbench.report.claims import Cell, Kind, Verdict, judge
from pqbench.report.names import dataset_name, model_name

MANY = 4  # reasons that are listed one by one


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
    unseen: int | None = None,
) -> list[Answer]:
    """One answer for each model and data set that was compressed or searched, in their order.

    Args:
        records: Of a sweep or a report; the newest of each experiment.
        pairings: Candidates timed beside the reference.
        margins: The question; None: the usual one.
        unseen: Of a search: claims that chose among its cells without being in a record here;
            None: it was none.
    """
    margins = margins or Margins()
    cells = judge_cells(records, pairings, margins, unseen or 0)
    return [
        _answer(group, cells, margins)
        for group in _groups(records).values()
        if unseen is not None or any(not record.is_baseline for record in group) or len(group) > 1
    ]


def finalists(records: Sequence[Record], margins: Margins) -> list[tuple[Record, Record]]:
    """Which cells are worth timing beside the reference: candidate and reference, each pair.

    Of each other backend the FP32 model, and of the compressed ones that keep their claims there
    those that cannot be told from the fastest. Beside FP32 on their own runtime they must not be
    slower; so many times as fast (``claim.min_speedup``) is asked beside the reference.
    """
    there_fast = dataclasses.replace(margins, min_speedup=min(1.0, margins.min_speedup))
    own = {cell.record.fingerprint: cell for cell in judge(records, there_fast)}
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
    """What runs today, among the records of one model and data set: FP32 on one backend.

    That is ``claim.reference`` or PyTorch. Where several runtimes are there without PyTorch, it is
    FP32 on the one that was measured first: each one's speedup over itself does not tell which of
    them is faster.
    """
    plain = [r for r in records if r.ok and r.is_baseline]
    wanted = margins.reference or "torch"
    named = [r for r in plain if r.experiment.backend == wanted]
    if named or margins.reference or len({r.experiment.backend for r in records if r.ok}) < 2:
        return named[0] if named else None
    in_fp32 = [r for r in plain if float_precision(r) == "FP32"]
    return min(in_fp32, key=lambda r: r.order, default=None)


def _answer(group: Sequence[Record], cells: Cells, margins: Margins) -> Answer:
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
    paired = any(f.against is not None and f.against is not f.own for f in found)
    timed = {f.record.experiment.backend for f in found if f.against is not None}
    good = [f for f in found if _keeps(f, paired)]
    good.sort(key=_rank, reverse=True)
    best = good[0] if good else None
    equals = tuple(f for f in good[1:] if best is not None and not _slower(f, best))
    sentence = (
        answer_sentence(best, reference, margins)
        if best
        else stay_sentence(found, group, reference, margins)
    )
    named = {id(best), *(id(f) for f in equals)}
    command, lacks = surer_command(found)
    return Answer(
        model=group[0].experiment.model,
        dataset=group[0].experiment.dataset,
        margins=margins,
        best=best,
        reference=reference,
        sentence=sentence,
        equals=equals,
        others=tuple(
            other_lines(
                [f for f in found if id(f) not in named], group, best, timed if paired else None
            )
        ),
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
    """Whether it is shown to be slower than the best; not by ratios over different baselines."""
    apart = other.record.experiment.backend != best.record.experiment.backend
    if apart and (other.against is None or best.against is None):
        return False
    ours, theirs = _log_ratio(other), _log_ratio(best)
    if ours is None or theirs is None:
        return False
    return theirs.minus(ours).p_at_most(0.0) < 0.05


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
