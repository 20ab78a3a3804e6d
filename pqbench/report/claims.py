"""Claims: what the records of a sweep support, refute, or leave undecided, all of them together.

A question has margins: at most so many points lost, at least so many times as fast. Each cell
(experiment with a baseline) is judged for each, by its :mod:`pqbench.report.evidence`.

Of each claim exactly one of "holds" and "fails" is false, so a verdict can only err one way; the
smaller of the two p values enters Holm's correction over all claims of all cells (directional
decisions: Shaffer, Annals of Statistics 8, 1980). With ``confidence=0.95`` a set of records has a
wrong verdict in at most 5 of 100 cases. The bounds that are quoted (``at most 0.8 points lost``)
hold together at the same confidence (Bonferroni).

A cell whose model answers one class, has lost one, or is not shown to be better than a constant
answer is never an answer, whatever its claims: :attr:`Cell.faults` says so in words.

This module is pure: records in, dataclasses out. What prints the answer starts from
:func:`judge`: cells that are :attr:`Cell.answerable`, sorted by their speedup's bound, are the
candidates; :attr:`Judged.needs` says what an undecided one lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pqbench.core.margins import Margins
from pqbench.core.record import Record
from pqbench.core.statistics import holm
from pqbench.report.evidence import Claim, Evidence, Kind, bound_of, evidence_of, needs_of

__all__ = ["Cell", "Claim", "Judged", "Kind", "Margins", "Verdict", "faults_of", "judge"]
DEFAULT = Margins()


class Verdict(StrEnum):
    """What the records say about a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judged:
    """A claim and what the record says about it.

    Attributes:
        claim: The statement.
        verdict: ``holds``, ``fails`` or ``undecided``.
        estimate: Drop in points, or speedup; None where there is none.
        bound: What may be quoted at the stated confidence, all claims together: at most so many
            points lost, at least so many times as fast; None where it cannot be told.
        p: Of the verdict being wrong, after Holm's correction; None where nothing was tested.
        needs: Of an undecided claim what would decide it: ``about 1,900 more images``,
            ``4 more starts``, or why nothing would; empty otherwise.
        more: The same as a number of samples or starts; None where no number would do.
    """

    claim: Claim
    verdict: Verdict
    estimate: float | None
    bound: float | None
    p: float | None
    needs: str = ""
    more: int | None = None


@dataclass(frozen=True)
class Cell:
    """One experiment and its claims.

    Attributes:
        record: What came out of it.
        claims: The drop first, then the speedups by batch size.
        faults: Why it is never an answer, whatever its claims; see
            :class:`pqbench.core.record.Faithfulness`.
    """

    record: Record
    claims: tuple[Judged, ...]
    faults: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        """Whether every claim holds and nothing is wrong with the model."""
        return (
            not self.faults
            and bool(self.claims)
            and all(judged.verdict is Verdict.HOLDS for judged in self.claims)
        )

    def claim(self, kind: Kind, batch_size: int | None = None) -> Judged | None:
        """The judged claim of a kind; the first batch size's where none is given."""
        return next(
            (
                judged
                for judged in self.claims
                if judged.claim.kind is kind and batch_size in (None, judged.claim.batch_size)
            ),
            None,
        )


def judge(
    records: Sequence[Record],
    margins: Margins = DEFAULT,
    batch_sizes: Collection[int] | None = None,
    unseen: int = 0,
) -> list[Cell]:
    """Judge every experiment that has a baseline and a result, all claims together.

    Args:
        records: Of a sweep, a report or a search; baselines and failures among them are left out.
        margins: The question.
        batch_sizes: Whose speedups are claimed; None: all that were measured. The fewer, the
            surer each.
        unseen: Claims beside these: drops of cells that a search scored but did not measure in
            full. Chosen among many, the others must be surer.

    Returns:
        One cell for each, in the order given.
    """
    found = [
        (record, evidence_of(record, margins, batch_sizes))
        for record in records
        if record.ok and not record.is_baseline
    ]
    family = [e for _, evidence in found for e in evidence if not e.missing]
    p_values = [min(e.p_holds, e.p_fails) for e in family]
    adjusted = holm([*p_values, *[1.0] * unseen])[: len(family)]
    p_of = {id(e): p for e, p in zip(family, adjusted, strict=True)}
    alpha = 1 - margins.confidence
    open_claims = max(sum(p >= alpha for p in adjusted), 1)
    cells = []
    for record, evidence in found:
        judged = tuple(
            _judged(e, p_of.get(id(e)), alpha, len(family) + unseen, open_claims) for e in evidence
        )
        cells.append(Cell(record, judged, faults_of(record)))
    return cells


def faults_of(record: Record) -> tuple[str, ...]:
    """Why a model must never be an answer, in words; empty if nothing was found."""
    looked = [a.faithfulness for a in (record.accuracy, record.accuracy_clean) if a is not None]
    return tuple(dict.fromkeys(f for one in looked if one is not None for f in one.faults))


def _judged(
    evidence: Evidence, p: float | None, alpha: float, family: int, open_claims: int
) -> Judged:
    claim, estimate = evidence.claim, evidence.estimate
    if p is None:
        return Judged(claim, Verdict.UNDECIDED, estimate, None, None, evidence.missing)
    bound = bound_of(evidence, 1 - alpha / family)
    if p >= alpha:
        needs, more = needs_of(evidence, alpha / open_claims)
        return Judged(claim, Verdict.UNDECIDED, estimate, bound, p, needs, more)
    if evidence.p_fails < evidence.p_holds:
        return Judged(claim, Verdict.FAILS, estimate, bound, p)
    best = min if claim.kind is Kind.DROP else max
    return Judged(claim, Verdict.HOLDS, estimate, best(bound, claim.margin), p)
