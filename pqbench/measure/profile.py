"""Say in one sentence where two profiles differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pqbench.core.record import Speedup

# By so much may a profile's ratio differ from the timed one, and a profile's total from the timed
# median: profiling costs time for every kernel, and what is between kernels is in none.
_RATIO = 1.25
_TOTAL = 1.5
# A difference below this share of the total is not worth a word.
_SMALL = 0.05


def mean_profile(profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of several profiles, ms per call by kernel type, largest first."""
    kinds = {kind for profile in profiles for kind in profile}
    mean = {k: sum(p.get(k, 0.0) for p in profiles) / len(profiles) for k in kinds}
    return dict(sorted(mean.items(), key=lambda item: (-item[1], item[0])))


def disagreement(
    ms: Mapping[str, float],
    baseline_ms: Mapping[str, float],
    p50_ms: float,
    speedup: Speedup | None,
) -> str:
    """Why a profile cannot be the reason for what was timed; empty if it can.

    Args:
        ms: ms per call by kernel type of the candidate.
        baseline_ms: The same of the baseline; empty without one.
        p50_ms: Timed median of the candidate at the same batch size.
        speedup: The timed ratio at the same batch size; None without a baseline.
    """
    if not ms:
        return ""
    total = sum(ms.values())
    if not 1 / _TOTAL <= total / p50_ms <= _TOTAL:
        return (
            f"the profile's total of {total:.3g} ms disagrees with the timed median of "
            f"{p50_ms:.3g} ms: no reason for it"
        )
    if not baseline_ms or speedup is None:
        return ""
    other = sum(baseline_ms.values())
    ratio = other / total
    opposite = (ratio > 1) != (speedup.ratio > 1) and not speedup.low <= 1 <= speedup.high
    if opposite or not 1 / _RATIO <= ratio / speedup.ratio <= _RATIO:
        return (
            f"the profiles ({total:.3g} ms against {other:.3g} ms of the baseline: {ratio:.3g} "
            f"times) disagree with the timed ratio of {speedup.ratio:.3g}: no reason for it"
        )
    return ""


def explain(
    ms: Mapping[str, float],
    baseline_ms: Mapping[str, float],
    int8_share: float | None = None,
    float_reasons: Mapping[str, int] | None = None,
) -> str:
    """The difference of two profiles in one sentence.

    Args:
        ms: ms per call by kernel type of the candidate.
        baseline_ms: The same of the baseline.
        int8_share: Share of quantizable operators that ran as integer kernels.
        float_reasons: Operators left in float and added conversions, with counts.

    Returns:
        The sentence; empty if there is no profile to speak of.
    """
    if not ms:
        return ""
    total, other = sum(ms.values()), sum(baseline_ms.values())
    parts = []
    if baseline_ms:
        parts.append(f"{total:.3g} ms in kernels against {other:.3g} ms of the baseline")
        change = {k: ms.get(k, 0.0) - baseline_ms.get(k, 0.0) for k in {*ms, *baseline_ms}}
        gained = sorted(((v, k) for k, v in change.items() if v > _SMALL * other), reverse=True)
        saved = sorted((v, k) for k, v in change.items() if v < -_SMALL * other)
        if gained:
            parts.append("more in " + ", ".join(f"{k} ({v:+.3g} ms)" for v, k in gained[:3]))
        if saved:
            parts.append("less in " + ", ".join(f"{k} ({v:+.3g} ms)" for v, k in saved[:3]))
    else:
        largest = sorted(ms.items(), key=lambda item: -item[1])[:3]
        parts.append(
            f"{total:.3g} ms in kernels, most in "
            + ", ".join(f"{name} ({value:.3g} ms)" for name, value in largest)
        )
    if int8_share is not None and int8_share < 0.9 and float_reasons:
        left = sorted(float_reasons.items(), key=lambda item: -item[1])[:2]
        parts.append(
            f"only {int8_share:.0%} of the quantizable operators run as integer kernels ("
            + ", ".join(f"{count} x {name}" for name, count in left)
            + ")"
        )
    return "; ".join(parts)
