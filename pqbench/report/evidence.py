"""What one record knows about one claim, before all claims are judged together.

* *drop*: non-inferiority of the paired predictions, by Tango's score test made exact where the
  models hardly differ (:func:`pqbench.core.proportions.drop_p_at_least`); for segmentation by
  Student's t on the jackknife by image;
* *speedup*: a one-sided bound on the mean log ratio of the starts, with Student's t and one degree
  of freedom less than there are starts. One start decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from pqbench.core.margins import Margins
from pqbench.core.proportions import drop_p_at_least, drop_p_at_most, drop_upper
from pqbench.core.record import Accuracy, AgainstBaseline, Record, Speedup
from pqbench.core.sizing import about, samples_for_drop, starts_for_bound
from pqbench.core.statistics import Normal, mean_of

MIN_STARTS = 2  # a claim needs some; below it nothing tells what another start would change


class Kind(StrEnum):
    """What a claim is about."""

    DROP = "drop"
    SPEEDUP = "speedup"


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
class Evidence:
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


def evidence_of(
    record: Record, margins: Margins, batch_sizes: Collection[int] | None
) -> list[Evidence]:
    """What a record knows about each claim: the drop first, then the speedups by batch size.

    Args:
        record: Of an experiment with a baseline.
        margins: The question.
        batch_sizes: Whose speedups are claimed; None: all that were measured.
    """
    found = [_drop_evidence(record.accuracy, Claim(Kind.DROP, margins.max_drop_pt), record)]
    for speedup in sorted(record.speedup, key=lambda s: s.batch_size):
        if batch_sizes is None or speedup.batch_size in batch_sizes:
            claim = Claim(Kind.SPEEDUP, margins.min_speedup, speedup.batch_size)
            found.append(_speedup_evidence(speedup, claim))
    return found


def _drop_evidence(accuracy: Accuracy | None, claim: Claim, record: Record) -> Evidence:
    against: AgainstBaseline | None = accuracy.against_baseline if accuracy else None
    if accuracy is None or against is None:
        why = record.reasons.get("accuracy", "the predictions were not compared with a baseline")
        return Evidence(claim, missing=f"accuracy: {why}")
    margin = claim.margin / 100
    sample = "text" if record.experiment.task == "text_classification" else "image"
    if against.lost is not None and against.gained is not None:
        counts = (against.lost, against.gained, accuracy.count)
        return Evidence(
            claim,
            against.drop_pt,
            drop_p_at_least(*counts, margin),
            drop_p_at_most(*counts, margin),
            counts=counts,
            sample=sample,
        )
    if against.error_pt is None or against.dof is None:
        why = accuracy.too_few or "the record does not hold the paired counts: measure it again"
        return Evidence(claim, against.drop_pt, missing=why)
    mean = Normal(against.drop_pt / 100, against.error_pt / 100, against.dof)
    return Evidence(
        claim,
        against.drop_pt,
        mean.p_at_least(margin),
        mean.p_at_most(margin),
        mean=mean,
        units=accuracy.count,
    )


def _speedup_evidence(speedup: Speedup, claim: Claim) -> Evidence:
    if speedup.disturbed:
        return Evidence(claim, speedup.ratio, missing="a quiet machine: other work disturbed it")
    starts = len(speedup.start_ratios)
    mean = mean_of([math.log(ratio) for ratio in speedup.start_ratios])
    if mean is None or starts < MIN_STARTS:
        more = 3 - max(starts, 1)
        return Evidence(claim, speedup.ratio, missing=f"at least {more} more starts")
    null = math.log(claim.margin)
    return Evidence(
        claim,
        speedup.ratio,
        mean.p_at_most(null),
        mean.p_at_least(null),
        mean=mean,
        units=starts,
    )


def bound_of(evidence: Evidence, confidence: float) -> float:
    """The one-sided bound in the claim's unit."""
    if evidence.counts is not None:
        return 100 * drop_upper(*evidence.counts, confidence)
    assert evidence.mean is not None  # every tested claim has one of the two
    if evidence.claim.kind is Kind.DROP:
        return 100 * evidence.mean.upper(confidence)
    return math.exp(max(evidence.mean.lower(confidence), -700.0))


def needs_of(evidence: Evidence, alpha: float) -> tuple[str, int | None]:
    """What would decide the claim, at the level that it still has to reach."""
    if evidence.claim.kind is Kind.SPEEDUP:
        assert evidence.mean is not None
        null = math.log(evidence.claim.margin)
        wanted = starts_for_bound(evidence.mean, evidence.units, null, alpha)
        if wanted is None:
            return f"too close to {evidence.claim.margin:g} for any number of starts", None
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
        return f"too close to {near} for any number of {evidence.sample}s", None
    more = max(wanted - count, 1)
    return f"about {about(more)} more {evidence.sample}{'s' if more > 1 else ''}", more


def _images(mean: Normal, count: int, margin: float, alpha: float) -> int | None:
    """Images in all for a drop whose error is known by image."""
    from scipy.special import ndtri

    distance = abs(margin - mean.value)
    z = -float(ndtri(alpha)) + float(ndtri(0.8))
    wanted = (z * mean.error * math.sqrt(count) / distance) ** 2 if distance else math.inf
    return math.ceil(wanted) if wanted < 1e7 else None
