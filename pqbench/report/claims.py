"""Claims: what the records of a sweep support, refute, or leave undecided, all of them together.

A question has margins: at most so many points lost, at least so many times as fast. Each cell
(experiment with a baseline) is judged for each:

* *drop*: non-inferiority of the paired predictions, by Tango's score test made exact where the
  models hardly differ (:func:`pqbench.core.proportions.drop_p_at_least`); for segmentation by
  Student's t on the jackknife by image;
* *speedup*: a one-sided bound on the mean log ratio of the starts, with Student's t and one degree
  of freedom less than there are starts. One start decides nothing.

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

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pqbench.core.margins import Margins
from pqbench.core.proportions import drop_p_at_least, drop_p_at_most, drop_upper
from pqbench.core.record import Accuracy, AgainstBaseline, Record, Speedup
from pqbench.core.sizing import about, samples_for_drop, starts_for_bound
from pqbench.core.statistics import Normal, holm, mean_of

__all__ = ["Cell", "Claim", "Judged", "Kind", "Margins", "Verdict", "faults_of", "judge"]
DEFAULT = Margins()
MIN_STARTS = 2  # a claim needs some; below it nothing tells what another start would change


class Kind(StrEnum):
    """What a claim is about."""

    DROP = "drop"
    SPEEDUP = "speedup"


class Verdict(StrEnum):
    """What the records say about a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """A statement with a margin.

    Attributes:
        kind: Drop or speedup.
        margin: At most so many points, or at least so many times as fast.
        batch_size: Of a speedup; None for a drop.
    """

    kind: Kind
    margin: float
    batch_size: int | None = None

    def __str__(self) -> str:
        if self.kind is Kind.DROP:
            return f"at most {self.margin:g} points lost"
        return f"at least {self.margin:g} times as fast at batch {self.batch_size}"


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


@dataclass(frozen=True)
class _Evidence:
    """What a record knows about one claim, before it is corrected for the others.

    Attributes:
        claim: The statement.
        estimate: In the claim's unit.
        p_holds: P value of the claim being false: small where it is shown to hold.
        p_fails: P value of the claim being true: small where it is shown to fail.
        counts: Paired samples: lost, gained, all. For a drop of a classifier.
        mean: Log ratio, or drop in shares with its error. For all else.
        units: Starts or images behind ``mean``.
        sample: What a sample is called.
        missing: Why there is no evidence.
    """

    claim: Claim
    estimate: float | None = None
    p_holds: float = 1.0
    p_fails: float = 1.0
    counts: tuple[int, int, int] | None = None
    mean: Normal | None = None
    units: int = 0
    sample: str = "image"
    missing: str = ""


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
        unseen: Claims of cells that a search dropped before they were measured in full: chosen
            among many, the others must be surer.

    Returns:
        One cell for each, in the order given.
    """
    found = [
        (record, _evidence(record, margins, batch_sizes))
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
    evidence: _Evidence, p: float | None, alpha: float, family: int, open_claims: int
) -> Judged:
    claim, estimate = evidence.claim, evidence.estimate
    if p is None:
        return Judged(claim, Verdict.UNDECIDED, estimate, None, None, evidence.missing)
    bound = _bound(evidence, 1 - alpha / family)
    if p >= alpha:
        needs, more = _needs(evidence, alpha / open_claims)
        return Judged(claim, Verdict.UNDECIDED, estimate, bound, p, needs, more)
    if evidence.p_fails < evidence.p_holds:
        return Judged(claim, Verdict.FAILS, estimate, bound, p)
    best = min if claim.kind is Kind.DROP else max
    return Judged(claim, Verdict.HOLDS, estimate, best(bound, claim.margin), p)


def _evidence(
    record: Record, margins: Margins, batch_sizes: Collection[int] | None
) -> list[_Evidence]:
    found = [_drop_evidence(record.accuracy, Claim(Kind.DROP, margins.max_drop_pt), record)]
    for speedup in sorted(record.speedup, key=lambda s: s.batch_size):
        if batch_sizes is None or speedup.batch_size in batch_sizes:
            claim = Claim(Kind.SPEEDUP, margins.min_speedup, speedup.batch_size)
            found.append(_speedup_evidence(speedup, claim))
    return found


def _drop_evidence(accuracy: Accuracy | None, claim: Claim, record: Record) -> _Evidence:
    against: AgainstBaseline | None = accuracy.against_baseline if accuracy else None
    if accuracy is None or against is None:
        why = record.reasons.get("accuracy", "the predictions were not compared with a baseline")
        return _Evidence(claim, missing=f"accuracy: {why}")
    margin = claim.margin / 100
    sample = "text" if record.experiment.task == "text_classification" else "image"
    if against.lost is not None and against.gained is not None:
        counts = (against.lost, against.gained, accuracy.count)
        return _Evidence(
            claim,
            against.drop_pt,
            drop_p_at_least(*counts, margin),
            drop_p_at_most(*counts, margin),
            counts=counts,
            sample=sample,
        )
    if against.error_pt is None or against.dof is None:
        why = accuracy.too_few or "the record does not hold the paired counts: measure it again"
        return _Evidence(claim, against.drop_pt, missing=why)
    mean = Normal(against.drop_pt / 100, against.error_pt / 100, against.dof)
    return _Evidence(
        claim,
        against.drop_pt,
        mean.p_at_least(margin),
        mean.p_at_most(margin),
        mean=mean,
        units=accuracy.count,
    )


def _speedup_evidence(speedup: Speedup, claim: Claim) -> _Evidence:
    if speedup.disturbed:
        return _Evidence(claim, speedup.ratio, missing="a quiet machine: other work disturbed it")
    starts = len(speedup.start_ratios)
    mean = mean_of([math.log(ratio) for ratio in speedup.start_ratios])
    if mean is None or starts < MIN_STARTS:
        more = 3 - max(starts, 1)
        return _Evidence(claim, speedup.ratio, missing=f"at least {more} more starts")
    null = math.log(claim.margin)
    return _Evidence(
        claim,
        speedup.ratio,
        mean.p_at_most(null),
        mean.p_at_least(null),
        mean=mean,
        units=starts,
    )


def _bound(evidence: _Evidence, confidence: float) -> float:
    """The one-sided bound in the claim's unit."""
    if evidence.counts is not None:
        return 100 * drop_upper(*evidence.counts, confidence)
    assert evidence.mean is not None  # every tested claim has one of the two
    if evidence.claim.kind is Kind.DROP:
        return 100 * evidence.mean.upper(confidence)
    return math.exp(max(evidence.mean.lower(confidence), -700.0))


def _needs(evidence: _Evidence, alpha: float) -> tuple[str, int | None]:
    """What would decide the claim, at the level that it still has to reach."""
    if evidence.claim.kind is Kind.SPEEDUP:
        assert evidence.mean is not None
        null = math.log(evidence.claim.margin)
        wanted = starts_for_bound(evidence.mean, evidence.units, null, alpha)
        if wanted is None:
            return f"no number of starts: it is too close to {evidence.claim.margin:g}", None
        more = wanted - evidence.units
        return f"{more} more start{'s' if more > 1 else ''}", more
    margin = evidence.claim.margin / 100
    if evidence.counts is not None:
        count = evidence.counts[2]
        wanted = samples_for_drop(*evidence.counts, margin, alpha)
    else:
        assert evidence.mean is not None
        count = evidence.units
        wanted = _images(evidence.mean, count, margin, alpha)
    if wanted is None:
        near = f"{evidence.claim.margin:g} points"
        return f"no number of {evidence.sample}s: the drop is too close to {near}", None
    more = max(wanted - count, 1)
    return f"about {about(more)} more {evidence.sample}{'s' if more > 1 else ''}", more


def _images(mean: Normal, count: int, margin: float, alpha: float) -> int | None:
    """Images in all for a drop whose error is known by image."""
    from scipy.special import ndtri

    distance = abs(margin - mean.value)
    z = -float(ndtri(alpha)) + float(ndtri(0.8))
    wanted = (z * mean.error * math.sqrt(count) / distance) ** 2 if distance else math.inf
    return math.ceil(wanted) if wanted < 1e7 else None
