"""What a table says below itself about the figures of one record."""

from __future__ import annotations

from collections import defaultdict

from pqbench.core.record import Record

LOW_INT8_SHARE = 0.5
_FIELDS = {  # where a cell's number comes from in the record: the paths that explain a null
    "score_pct": ("accuracy",),
    "drop_pt": ("accuracy.against_baseline",),
    "p50_ms": ("latency",),
    "speedup_first": ("speedup",),
    "size_mb": ("size.file_bytes", "size"),
    "rss_peak_mb": ("memory.rss_peak_mb", "memory"),
    "int8_pct": ("placement.int8_share", "placement.integer", "placement"),
}


def batch_field(name: str, batch_size: int) -> str:
    """Name of a row's figure at one batch size, as marks and columns use it."""
    return f"{name}_b{batch_size}"


def footnotes(record: Record, first: int, last: int) -> dict[str, list[str]]:
    """Why there is no result, why a null, why slow, what to distrust.

    Args:
        record: Of one experiment.
        first: The table's smallest batch size.
        last: The table's largest batch size.

    Returns:
        By the name of the row's field that they explain; fields without any are left out.
    """
    marks: dict[str, list[str]] = defaultdict(list)
    error = record.error
    if error:
        parts = [error.message.rstrip("."), error.hint, f"log: {error.log}" if error.log else ""]
        text = "; ".join(part for part in parts if part)
        marks["status"].append(f"{record.status} in stage {error.stage}: {text}")
    marks["recipe"].extend(record.notes)
    for name, paths in _FIELDS.items():
        reason = next((record.reasons[p] for p in paths if p in record.reasons), None)
        if reason and record.ok:
            marks[name].append(reason)
    ends = (("p50_ms", first), ("sample_ms", last))
    every = ((batch_field("sample_ms", x.batch_size), x.batch_size) for x in record.latency)
    for name, size in (*ends, *every):
        latency = record.latency_at(size)
        if latency and not latency.stable:
            marks[name].append(f"unstable at batch {size}: {latency.unstable_reason}")
    for name, size in (("speedup_first", first), ("speedup_last", last)):
        speedup = record.speedup_at(size)
        if speedup and speedup.disturbed:
            marks[name].append(
                f"disturbed at batch {size}: too few blocks free of other load "
                f"({speedup.disturbed_blocks} set aside); do not trust the ratio"
            )
        if speedup and speedup.ratio < 1 and record.profile and record.profile.explanation:
            marks[name].append(record.profile.explanation)
    _mark_low_int8(record, marks["int8_pct"])
    return {name: notes for name, notes in marks.items() if notes}


def _mark_low_int8(record: Record, notes: list[str]) -> None:
    placement = record.placement
    quantized = any("int8" in step for step in record.experiment.recipe)
    if placement is None or placement.integer is None or placement.int8_share is None:
        return
    if placement.int8_share >= LOW_INT8_SHARE or not (quantized or placement.integer):
        return
    reasons = "; ".join(f"{count}x {why}" for why, count in placement.float_reasons.items())
    notes.append(
        f"INT8 in name more than in fact: {placement.integer} of {placement.quantizable} "
        "convolutions and matrix products run as integer kernels"
        + (f" (in float: {reasons})" if reasons else "")
    )
