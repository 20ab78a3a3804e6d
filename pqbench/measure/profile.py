"""Say in one sentence where two profiles differ."""

from __future__ import annotations

from collections.abc import Mapping

# A difference below this share of the total is not worth a word.
_SMALL = 0.05


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
