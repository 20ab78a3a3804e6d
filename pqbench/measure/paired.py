"""Paired latency: baseline and candidate take turns in blocks, so that drift hits both alike.

On a shared machine the speed of the same program changes by tens of percent from minute to minute.
Measured one after the other, that change ends up in the ratio; in turns, it cancels. Blocks during
which others took the CPU are set aside and repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Shape

import numpy as np
import numpy.typing as npt

from pqbench.measure import latency, recompile
from pqbench.measure.foreign import CpuSample, Share
from pqbench.measure.latency import Block
from pqbench.measure.protocol import Protocol
from pqbench.record import Latency, Speedup

CANDIDATE = "candidate"
BASELINE = "baseline"
_MAX_CALLS = 1_000_000
_STEADY = 0.05
_WAIT_STEP_S = 0.25
_LEAD_S = 0.02


class Timed(Shape):
    """One side: something whose calls can be timed in blocks."""

    def block(
        self, batch_size: int, seconds: float, min_calls: int, max_calls: int, lead_s: float = 0.0
    ) -> Block:
        """Time calls back to back."""
        ...


class Load(Shape):
    """Tells what others took of the CPU."""

    reason: str

    def sample(self) -> CpuSample | None:
        """Counters now."""
        ...

    def since(self, before: CpuSample | None) -> Share | None:
        """What others took since an earlier sample."""
        ...


@dataclass(frozen=True)
class Turn:
    """One timed block and the circumstances.

    Attributes:
        batch_size: Samples per call.
        side: ``candidate`` or ``baseline``.
        pair: Number of the pair it belongs to.
        block: The times.
        foreign: Share of the CPU that others took; None if unknown.
        disturbed: True if that was too much.
    """

    batch_size: int
    side: str
    pair: int
    block: Block
    foreign: float | None
    disturbed: bool


@dataclass
class BatchResult:
    """Everything measured at one batch size.

    Attributes:
        latency: Of the candidate.
        speedup: Over the baseline; None without one.
        turns: All blocks in order of time, those set aside included.
    """

    latency: Latency
    speedup: Speedup | None
    turns: list[Turn] = field(default_factory=list)


def ratio_interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median of the pairs' ratios with a 95 % interval.

    From 9 pairs on it is the percentile bootstrap over pairs (4,000 draws), never narrower than
    the sign test's interval; with fewer, where a bootstrap is known to be too narrow, Student's t
    on the logarithms.

    Args:
        ratios: Baseline over candidate by pair, all above 0.
        seed: Seeds the bootstrap.

    Returns:
        Estimate, lower and upper end; (0, inf) as ends of a single pair.
    """
    values = np.asarray(ratios, np.float64)
    estimate = float(np.median(values))
    low, high = latency.median_interval(values)
    if len(values) >= 9:
        draws = np.random.default_rng(seed).integers(0, len(values), (4000, len(values)))
        ends = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return estimate, min(low, estimate), max(high, estimate)


def warm_up(side: Timed, batch_size: int, protocol: Protocol) -> tuple[int, float]:
    """Call until steady: long enough, often enough, and two chunks in a row that agree.

    Returns:
        Calls made, and the median of the last chunk in s.
    """
    chunk = max(protocol.warmup_s / 3, 0.02)
    calls, spent, last = 0, 0.0, math.inf
    while True:
        block = side.block(batch_size, chunk, 1, _MAX_CALLS)
        calls += len(block.ns)
        spent += block.wall_s
        median = block.median_ms / 1e3
        steady = abs(median - last) <= _STEADY * median
        enough = calls >= protocol.warmup_calls and spent >= protocol.warmup_s
        if enough and (steady or spent >= 3 * protocol.warmup_s):
            return calls, median
        last = median


class _Measuring:
    """The state of measuring one batch size."""

    def __init__(
        self,
        sides: dict[str, Timed],
        batch_size: int,
        protocol: Protocol,
        load: Load,
        sleep: Callable[[float], None],
    ) -> None:
        self.sides = sides
        self.batch_size = batch_size
        self.protocol = protocol
        self.load = load
        self.sleep = sleep
        self.turns: list[Turn] = []
        self.spent = 0.0
        self.waited = 0.0
        self.lead = dict.fromkeys(sides, _LEAD_S)

    def pairs(self, quiet: bool) -> list[dict[str, Turn]]:
        """Pairs in order of time; with ``quiet`` only those without a disturbed block."""
        found: dict[int, dict[str, Turn]] = {}
        for turn in self.turns:
            found.setdefault(turn.pair, {})[turn.side] = turn
        return [
            pair
            for pair in found.values()
            if not (quiet and any(t.disturbed for t in pair.values()))
        ]

    def set_aside(self, side: str | None = None) -> int:
        """Disturbed blocks, of one side or all."""
        return sum(t.disturbed for t in self.turns if side in (None, t.side))

    def wait_for_quiet(self) -> None:
        """Sleep until others leave the CPU, or the patience is used up."""
        while self.waited < self.protocol.quiet_wait_s:
            before = self.load.sample()
            self.sleep(_WAIT_STEP_S)
            self.waited += _WAIT_STEP_S
            share = self.load.since(before)
            if share is None or share.foreign <= self.protocol.max_foreign_share:
                return

    def take(self, side: str, pair: int) -> Turn:
        """One block of one side."""
        self.sleep(self.protocol.settle_s)
        before = self.load.sample()
        block = self.sides[side].block(
            self.batch_size, self.protocol.block_s, 1, _MAX_CALLS, self.lead[side]
        )
        recompile.refuse(block.compiled, self.batch_size)
        share = self.load.since(before)
        foreign = None if share is None else share.foreign
        disturbed = foreign is not None and foreign > self.protocol.max_foreign_share
        turn = Turn(self.batch_size, side, pair, block, foreign, disturbed)
        self.turns.append(turn)
        self.spent += block.wall_s
        return turn


def _ratio(pair: dict[str, Turn]) -> float:
    return pair[BASELINE].block.median_ms / pair[CANDIDATE].block.median_ms


def _narrow(pairs: list[dict[str, Turn]], protocol: Protocol) -> bool:
    """Whether the intervals have reached the target."""
    target = protocol.target_half_width
    estimate, low, high = latency.p50_interval([p[CANDIDATE].block.ns for p in pairs])
    if latency.relative_half_width(estimate, low, high) > target:
        return False
    if BASELINE not in pairs[0]:
        return True
    estimate, low, high = ratio_interval([_ratio(p) for p in pairs], protocol.seed)
    return latency.relative_half_width(estimate, low, high) <= target


def measure_batch(
    candidate: Timed,
    baseline: Timed | None,
    batch_size: int,
    protocol: Protocol,
    load: Load,
    rng: np.random.Generator,
    sleep: Callable[[float], None] = time.sleep,
) -> BatchResult:
    """Measure one batch size: warm up, then pairs of blocks until sure or out of time.

    Args:
        candidate: What is measured.
        baseline: What it is compared with, or None.
        batch_size: Samples per call.
        protocol: How.
        load: Tells what others took of the CPU.
        rng: Draws the order of each pair.
        sleep: How to pause; replaced in tests.

    Returns:
        Latency, speedup and all blocks. If fewer quiet pairs than ``min_pairs`` could be had, the
        figures are made from all pairs and say that they are disturbed.
    """
    sides = {CANDIDATE: candidate} | ({BASELINE: baseline} if baseline is not None else {})
    state = _Measuring(sides, batch_size, protocol, load, sleep)
    warm_calls = 0
    for name, side in sides.items():
        calls, median = warm_up(side, batch_size, protocol)
        if name == CANDIDATE:
            warm_calls = calls
        if median > protocol.block_s / 4:
            state.lead[name] = 0.0
    look = protocol.min_pairs
    for number in range(protocol.max_pairs):
        # A pair is only a pair if its blocks are neighbours: with one block disturbed, both are
        # repeated.
        pair = [state.take(str(name), number) for name in rng.permutation(list(sides))]
        if number + 1 >= protocol.min_pairs and (
            state.spent >= protocol.max_seconds or state.set_aside() > protocol.max_disturbed
        ):
            break
        if any(turn.disturbed for turn in pair):
            state.wait_for_quiet()
            continue
        # Looking after every pair would stop at lucky moments; so look ever more rarely.
        quiet = state.pairs(quiet=True)
        if len(quiet) >= look:
            if _narrow(quiet, protocol):
                break
            look = math.ceil(len(quiet) * 1.3)
    return _conclude(state, warm_calls)


def _conclude(state: _Measuring, warm_calls: int) -> BatchResult:
    protocol = state.protocol
    quiet = state.pairs(quiet=True)
    disturbed = len(quiet) < protocol.min_pairs and state.set_aside() > 0
    used = state.pairs(quiet=False) if disturbed else quiet
    reason = ""
    if disturbed:
        shares = [t.foreign for t in state.turns if t.foreign is not None and t.disturbed]
        reason = (
            f"disturbed: only {len(quiet)} of {protocol.min_pairs} quiet pairs; in the others "
            f"other processes took {float(np.median(shares)):.0%} of the CPU"
        )
    summary = latency.summary(
        [pair[CANDIDATE].block.ns for pair in used],
        state.batch_size,
        protocol.unstable_half_width,
        warm_calls,
        state.set_aside(CANDIDATE),
        reason,
    )
    speedup = None
    if BASELINE in state.sides:
        ratio, low, high = ratio_interval([_ratio(p) for p in used], protocol.seed)
        times: list[npt.NDArray[np.int64]] = [p[BASELINE].block.ns for p in used]
        if not math.isfinite(high):  # a single pair: all that is known is what was seen
            low, high, disturbed = ratio, ratio, True
        speedup = Speedup(
            batch_size=state.batch_size,
            ratio=ratio,
            low=low,
            high=high,
            pairs=len(used),
            disturbed_blocks=state.set_aside(),
            disturbed=disturbed,
            baseline_p50_ms=float(np.median(np.concatenate(times))) / 1e6,
        )
    return BatchResult(summary, speedup, state.turns)


def measure(
    candidate: Timed,
    baseline: Timed | None,
    protocol: Protocol,
    load: Load,
    sleep: Callable[[float], None] = time.sleep,
) -> list[BatchResult]:
    """Measure every batch size of the protocol, smallest first; see :func:`measure_batch`."""
    rng = np.random.default_rng(protocol.seed)
    return [
        measure_batch(candidate, baseline, size, protocol, load, rng, sleep)
        for size in sorted(protocol.batch_sizes)
    ]


def save_turns(results: Sequence[BatchResult], path: Path) -> None:
    """Write every timed call as Parquet: batch_size, side, pair, block, ns, foreign, disturbed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turns = [turn for result in results for turn in result.turns]
    counts = [len(turn.block.ns) for turn in turns]
    table = pa.table(
        {
            "batch_size": pa.array(np.repeat([t.batch_size for t in turns], counts), pa.int32()),
            "side": pa.array(np.repeat([t.side for t in turns], counts)).dictionary_encode(),
            "pair": pa.array(np.repeat([t.pair for t in turns], counts), pa.int32()),
            "block": pa.array(np.repeat(np.arange(len(turns)), counts), pa.int32()),
            "ns": pa.array(np.concatenate([t.block.ns for t in turns]), pa.int64()),
            "foreign": pa.array(
                np.repeat(np.array([t.foreign for t in turns], np.float64), counts),
                pa.float64(),
                from_pandas=True,
            ),
            "disturbed": pa.array(np.repeat([t.disturbed for t in turns], counts), pa.bool_()),
        }
    )
    pq.write_table(table, path, compression="zstd")
