"""Steady-state latency: the timed loop, and what its samples say."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.record import Latency
from pqbench.core.statistics import tail
from pqbench.measure.intervals import (
    FEW_BLOCKS,
    p50_interval,
    relative_half_width,
    start_p50_ms,
)

_TAILS = (("p90", 0.90), ("p95", 0.95), ("p99", 0.99))
_DRIFT = 0.1


@dataclass(frozen=True)
class Block:
    """Back-to-back calls of one side.

    Attributes:
        ns: Time of each call in ns, in order.
        cpu_s: CPU time that the process used during the block, all threads, in s.
        wall_s: Wall time of the block in s.
        compiled: Graphs that the runtime compiled meanwhile.
        waited_s: Time that the process's threads were ready to run while a CPU was given to others,
            all threads together, in s; None where the system does not tell.
        faults: Page faults meanwhile.
    """

    ns: npt.NDArray[np.int64]
    cpu_s: float
    wall_s: float
    compiled: int = 0
    waited_s: float | None = None
    faults: int = 0

    @property
    def waited(self) -> float | None:
        """Share, 0..1, of the CPU time that was wanted but not had; None if unknown."""
        if self.waited_s is None:
            return None
        return self.waited_s / max(self.waited_s + self.cpu_s, 1e-9)

    @property
    def median_ms(self) -> float:
        """Median of one call in ms."""
        return float(np.median(self.ns)) / 1e6


def time_calls(
    run: Callable[[Mapping[str, npt.NDArray[Any]]], object],
    batches: Sequence[Mapping[str, npt.NDArray[Any]]],
    seconds: float,
    min_calls: int,
    max_calls: int,
    lead_s: float = 0.0,
    first: int = 0,
) -> Block:
    """Call ``run`` back to back and time each call, with the garbage collector off.

    Args:
        run: What is timed; its result is dropped outside the timed part.
        batches: Inputs to rotate through.
        seconds: No call begins after this time, once there are ``min_calls``.
        min_calls: Calls made whatever the time.
        max_calls: Calls after which the block ends.
        lead_s: Untimed calls for this long first, so that caches and threads are awake.
        first: Which batch comes first.

    Returns:
        The block.
    """
    clock = time.perf_counter_ns
    ns = np.empty(max(max_calls, 1), np.int64)
    feed = itertools.islice(itertools.cycle(batches), first % len(batches), None)
    collecting = gc.isenabled()
    gc.disable()
    try:
        lead_end = clock() + int(lead_s * 1e9)
        while lead_s > 0 and clock() < lead_end:
            run(next(feed))
        cpu = time.process_time_ns()
        begin = clock()
        end = begin + int(seconds * 1e9)
        count = 0
        while count < max_calls:
            batch = next(feed)
            start = clock()
            outputs = run(batch)
            stop = clock()
            del outputs
            ns[count] = stop - start
            count += 1
            if stop >= end and count >= min_calls:
                break
        wall = clock() - begin
        cpu = time.process_time_ns() - cpu
    finally:
        if collecting:
            gc.enable()
    return Block(ns[:count].copy(), cpu / 1e9, wall / 1e9)


def drift(samples: npt.NDArray[np.int64]) -> float | None:
    """Median of the last third over the median of the first, minus 1; None below 6 calls."""
    third = len(samples) // 3
    if third < 2:
        return None
    return float(np.median(samples[-third:]) / np.median(samples[:third])) - 1.0


def _finite(value: float, fallback: float) -> float:
    return value if math.isfinite(value) else fallback


def summary(
    blocks: Sequence[npt.NDArray[np.int64]],
    batch_size: int,
    unstable_half_width: float = 0.05,
    warmup_calls: int = 0,
    disturbed_blocks: int = 0,
    disturbed_reason: str = "",
    processes: Sequence[int] = (),
) -> Latency:
    """What the samples say.

    Args:
        blocks: Times in ns of the blocks that count, in order of time; at least one call.
        batch_size: Samples per call.
        unstable_half_width: Relative half-width of the median's interval beyond which the figures
            are called unstable.
        warmup_calls: Calls before the first block.
        disturbed_blocks: Blocks that were set aside.
        disturbed_reason: Why the figures are not to be trusted; empty if they are.
        processes: The process of each block; empty: all of one.

    Returns:
        The record's entry. With one start of fewer than 6 blocks the interval cannot be told: it
        spans the fastest to the slowest call and the figures are called unstable.
    """
    samples = np.concatenate(blocks)
    count = len(samples)
    p50, low, high = p50_interval(blocks, processes)
    fastest, slowest = float(samples.min()) / 1e6, float(samples.max()) / 1e6
    reasons = [disturbed_reason] if disturbed_reason else []
    starts = max(len(set(processes)), 1)
    if len(blocks) < FEW_BLOCKS and starts < 2:
        low, high = fastest, slowest
        few = "a single block" if len(blocks) == 1 else f"only {len(blocks)} blocks of one start"
        reasons.append(f"{few}: its interval cannot be told")
    else:
        high = _finite(high, slowest)
        half = relative_half_width(p50, low, high)
        if half > unstable_half_width:
            reasons.append(
                f"the median is known to ±{half:.1%} only, the limit is {unstable_half_width:.1%}"
            )
    change = drift(samples)
    if change is not None and abs(change) > _DRIFT:
        reasons.append(f"it drifts: the last third is {change:+.1%} against the first")

    groups = processes if starts > 1 else [0] * len(blocks)
    tails: dict[str, float | None] = {}
    for name, share in _TAILS:
        found = tail(samples / 1e6, share, np.repeat(groups, [len(block) for block in blocks]))
        ends = (found.value, found.low, found.high) if found else (None, None, None)
        tails |= zip((f"{name}_ms", f"{name}_low_ms", f"{name}_high_ms"), ends, strict=True)
    mean = float(samples.mean()) / 1e6
    return Latency(
        batch_size=batch_size,
        n=count,
        p50_ms=p50,
        p50_low_ms=low,
        p50_high_ms=high,
        mean_ms=mean,
        std_ms=float(samples.std(ddof=1)) / 1e6 if count > 1 else 0.0,
        min_ms=fastest,
        ms_per_sample=p50 / batch_size,
        throughput_per_s=1e3 * batch_size / mean,
        stable=not reasons,
        unstable_reason="; ".join(reasons),
        blocks=len(blocks),
        disturbed_blocks=disturbed_blocks,
        warmup_calls=warmup_calls,
        drift=change,
        processes=starts,
        start_p50_ms=start_p50_ms(blocks, processes),
        **tails,
    )
