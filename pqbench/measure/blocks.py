"""What the timed blocks say: latency, speedup, and the file that keeps every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqbench.core.record import Latency, Speedup
from pqbench.measure import latency
from pqbench.measure.intervals import p50_interval, ratio_interval, start_means
from pqbench.measure.latency import Block
from pqbench.measure.protocol import MeasureProtocol

CANDIDATE = "candidate"
BASELINE = "baseline"
Pair = dict[str, "TimedBlock"]


@dataclass(frozen=True)
class TimedBlock:
    """One timed block and the circumstances.

    Attributes:
        batch_size: Samples per call.
        side: ``candidate`` or ``baseline``.
        pair: Number of the pair it belongs to.
        times: The times of its calls.
        foreign: Share of the CPU that others took; None if unknown.
        disturbed: True if that was too much.
        process: Which start of the session processes it belongs to, from 0.
    """

    batch_size: int
    side: str
    pair: int
    times: Block
    foreign: float | None
    disturbed: bool
    process: int = 0


@dataclass
class BatchResult:
    """Everything measured at one batch size.

    Attributes:
        latency: Of the candidate.
        speedup: Over the baseline; None without one.
        blocks: All blocks in order of time, those set aside included.
    """

    latency: Latency
    speedup: Speedup | None
    blocks: list[TimedBlock] = field(default_factory=list)


def pairs(blocks: Sequence[TimedBlock], quiet: bool) -> list[Pair]:
    """Pairs in order of time; with ``quiet`` only those without a disturbed block."""
    found: dict[tuple[int, int], Pair] = {}
    for block in blocks:
        found.setdefault((block.process, block.pair), {})[block.side] = block
    return [
        pair for pair in found.values() if not (quiet and any(b.disturbed for b in pair.values()))
    ]


def p50_of(used: Sequence[Pair]) -> tuple[float, float, float]:
    """Median of the candidate's calls in ms and its 95 % interval."""
    return p50_interval([p[CANDIDATE].times.ns for p in used], _processes(used))


def speedup_of(used: Sequence[Pair]) -> tuple[float, float, float]:
    """Baseline over candidate and its 95 % interval."""
    return ratio_interval([_ratio(pair) for pair in used], _processes(used))


def settled(used: Sequence[Pair], target: float) -> bool:
    """Whether one start has told enough: twice its standard errors are within the target.

    It decides when a start's blocks end, never what is claimed: that is judged between starts.

    Args:
        used: The pairs of one start that count.
        target: Relative; of the candidate's median and of the ratio.
    """
    if len(used) < 2:
        return False
    series = [[pair[CANDIDATE].times.median_ms for pair in used]]
    if BASELINE in used[0]:
        series.append([_ratio(pair) for pair in used])
    return all(
        2 * float(np.log(values).std(ddof=1)) / math.sqrt(len(values)) <= target
        for values in series
    )


def ratios_by_start(used: Sequence[Pair]) -> list[float]:
    """Baseline over candidate of each start: the geometric mean of its pairs' ratios."""
    return [
        math.exp(value) for value in start_means([_ratio(pair) for pair in used], _processes(used))
    ]


def set_aside(blocks: Sequence[TimedBlock], side: str | None = None) -> int:
    """Disturbed blocks, of one side or all."""
    return sum(b.disturbed for b in blocks if side in (None, b.side))


def _processes(used: Sequence[Pair]) -> list[int]:
    return [pair[CANDIDATE].process for pair in used]


def _ratio(pair: Pair) -> float:
    return pair[BASELINE].times.median_ms / pair[CANDIDATE].times.median_ms


def conclude(
    blocks: list[TimedBlock], protocol: MeasureProtocol, warmup_calls: int = 0
) -> BatchResult:
    """Latency and speedup of one batch size.

    Args:
        blocks: All blocks, in order of time.
        protocol: How they were measured.
        warmup_calls: The candidate's calls before its first block.

    Returns:
        The figures. If fewer quiet pairs than ``min_pairs`` could be had, they are made from all
        pairs and say that they are disturbed.
    """
    quiet = pairs(blocks, quiet=True)
    disturbed = len(quiet) < protocol.min_pairs and set_aside(blocks) > 0
    used = pairs(blocks, quiet=False) if disturbed else quiet
    reason = ""
    if disturbed:
        shares = [b.foreign for b in blocks if b.foreign is not None and b.disturbed]
        reason = (
            f"disturbed: only {len(quiet)} of {protocol.min_pairs} quiet pairs; in the others "
            f"other processes took {float(np.median(shares)):.0%} of the CPU"
        )
    summary = latency.summary(
        [pair[CANDIDATE].times.ns for pair in used],
        blocks[0].batch_size,
        protocol.unstable_half_width,
        warmup_calls,
        set_aside(blocks, CANDIDATE),
        reason,
        _processes(used),
    )
    speedup = None
    if BASELINE in used[0]:
        ratio, low, high = speedup_of(used)
        times: list[npt.NDArray[np.int64]] = [p[BASELINE].times.ns for p in used]
        if not math.isfinite(high):  # a single pair: all that is known is what was seen
            low, high, disturbed = ratio, ratio, True
        speedup = Speedup(
            batch_size=summary.batch_size,
            ratio=ratio,
            low=low,
            high=high,
            pairs=len(used),
            disturbed_blocks=set_aside(blocks),
            disturbed=disturbed,
            baseline_p50_ms=float(np.median(np.concatenate(times))) / 1e6,
            start_ratios=ratios_by_start(used),
        )
    return BatchResult(summary, speedup, blocks)


def save_blocks(results: Sequence[BatchResult], path: Path) -> None:
    """Write every timed call as Parquet.

    Columns: batch_size, side, process, pair, block, ns, foreign, disturbed, waited, faults. The
    last five are the block's, repeated for each of its calls; ``waited`` and ``faults`` are
    described in :class:`pqbench.measure.latency.Block`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    blocks = [block for result in results for block in result.blocks]
    counts = [len(block.times.ns) for block in blocks]
    table = pa.table(
        {
            "batch_size": pa.array(np.repeat([b.batch_size for b in blocks], counts), pa.int32()),
            "side": pa.array(np.repeat([b.side for b in blocks], counts)).dictionary_encode(),
            "process": pa.array(np.repeat([b.process for b in blocks], counts), pa.int32()),
            "pair": pa.array(np.repeat([b.pair for b in blocks], counts), pa.int32()),
            "block": pa.array(np.repeat(np.arange(len(blocks)), counts), pa.int32()),
            "ns": pa.array(np.concatenate([b.times.ns for b in blocks]), pa.int64()),
            "foreign": pa.array(
                np.repeat(np.array([b.foreign for b in blocks], np.float64), counts),
                pa.float64(),
                from_pandas=True,
            ),
            "disturbed": pa.array(np.repeat([b.disturbed for b in blocks], counts), pa.bool_()),
            "waited": pa.array(
                np.repeat(np.array([b.times.waited for b in blocks], np.float64), counts),
                pa.float64(),
                from_pandas=True,
            ),
            "faults": pa.array(np.repeat([b.times.faults for b in blocks], counts), pa.int64()),
        }
    )
    pq.write_table(table, path, compression="zstd")
