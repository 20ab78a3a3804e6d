"""What a table says about the figures of one record: why none, why slow, what to distrust."""

from __future__ import annotations

import re

from pqbench.core.record import Record

_GROUPS = "backend|claim|compress|dataset|fit|limits|model|protocol|tracking"
_TYPED = re.compile(rf"(?<![\w/])(?:(?:{_GROUPS})[.=]\w|--\w|pqbench |pip install)")
LOW_INT8_SHARE = 0.5


def batch_field(name: str, batch_size: int) -> str:
    """Name of a figure at one batch size, as columns and verdicts use it."""
    return f"{name}_b{batch_size}"


def note_in_print(note: str) -> str:
    """A footnote for a thesis: without the parts that say what to type on a command line.

    Such a part is a remark in parentheses, or a clause after a semicolon, that names a setting. A
    note that is nothing else keeps its words.
    """

    def kept(found: re.Match[str]) -> str:
        return "" if _TYPED.search(found[0]) else found[0]

    text = re.sub(r" ?\([^()]*\)", kept, note)
    clauses = text.split("; ")
    told = [clause for clause in clauses if not _TYPED.search(clause)]
    return "; ".join(told or clauses[:1]).rstrip()


def failure(record: Record) -> tuple[str, ...]:
    """Why there is no result: the stage, what was wrong, what to do."""
    error = record.error
    if error is None:
        return ()
    parts = [error.message.rstrip("."), error.hint, f"log: {error.log}" if error.log else ""]
    text = "; ".join(part for part in parts if part)
    return (f"{record.status} in stage {error.stage}: {text}",)


def failure_in_print(record: Record) -> tuple[str, ...]:
    """The same for a thesis: without what to type and which log to read."""
    error = record.error
    if error is None:
        return ()
    return (note_in_print(f"{record.status} in stage {error.stage}: {error.message}"),)


def unstable(record: Record, batch_size: int) -> str:
    """Why the median at a batch size should not be trusted; empty if it may be."""
    latency = record.latency_at(batch_size)
    if latency is None or latency.stable:
        return ""
    return f"unstable at batch {batch_size}: {latency.unstable_reason}"


def disturbed(record: Record, batch_size: int) -> str:
    """Why the speedup at a batch size should not be trusted; empty if it may be."""
    speedup = record.speedup_at(batch_size)
    if speedup is None or not speedup.disturbed:
        return ""
    return (
        f"disturbed at batch {batch_size}: too few blocks free of other load "
        f"({speedup.disturbed_blocks} set aside); do not trust the ratio"
    )


def slow(record: Record, batch_size: int) -> tuple[str, ...]:
    """Why a candidate is slower than its baseline, where the profile says it."""
    speedup, profile = record.speedup_at(batch_size), record.profile
    slower = speedup is not None and speedup.ratio < 1
    return (profile.explanation,) if slower and profile and profile.explanation else ()


def low_int8(record: Record) -> tuple[str, ...]:
    """That INT8 is so in name more than in fact, and what stayed in float."""
    placement = record.placement
    quantized = any("int8" in step for step in record.experiment.recipe)
    if placement is None or placement.integer is None or placement.int8_share is None:
        return ()
    if placement.int8_share >= LOW_INT8_SHARE or not (quantized or placement.integer):
        return ()
    reasons = "; ".join(f"{count}x {why}" for why, count in placement.float_reasons.items())
    return (
        f"INT8 in name more than in fact: {placement.integer} of {placement.quantizable} "
        "convolutions and matrix products run as integer kernels"
        + (
            f", {placement.int8_macs_share:.0%} of their multiply-accumulates"
            if placement.int8_macs_share is not None
            else ""
        )
        + (f" (in float: {reasons})" if reasons else ""),
    )
