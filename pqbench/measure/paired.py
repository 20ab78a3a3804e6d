"""Paired latency: baseline and candidate take turns in blocks, so that drift hits both alike.

On a shared machine the speed of the same program changes by tens of percent from minute to minute.
Measured one after the other, that change ends up in the ratio; in turns, it cancels. Blocks during
which others took the CPU are set aside and repeated.

Who goes first is balanced, not left to luck: ABBA within a start (Kirk, Experimental Design,
counterbalancing), the mirror image in the next start, and which of the two begins is drawn from
the seed, the experiment and the batch size.
"""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pqbench.machine.foreign_load import ForeignLoad
from pqbench.measure import recompile
from pqbench.measure.blocks import (
    BASELINE,
    CANDIDATE,
    BatchResult,
    TimedBlock,
    conclude,
    pairs,
    set_aside,
    settled,
)
from pqbench.measure.protocol import MeasureProtocol
from pqbench.measure.side import Side

_MAX_CALLS = 1_000_000
_STEADY = 0.05
_WAIT_STEP_S = 0.25
# Before each block, so that caches and threads are awake; one call of a slow model. With twice as
# long the medians of blocks were the same within 0.1 % (ONNX Runtime, 11 and 86 us a call, 28
# blocks each), and the first tenth of a block was within 0.2 % of its median.
_LEAD_S = 0.01
# A block has so many calls unless they would take this many times its length: the median of one
# or two calls is no median.
_CALLS = 3
_LONGEST = 4.0
# A process that uses less than this share of a core has no thread that spins.
_IDLE = 0.1
_SETTLE_STEP_S = 0.002


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def warm_up(side: Side, batch_size: int, protocol: MeasureProtocol) -> tuple[int, float]:
    """Call until steady: long enough, often enough, and two chunks in a row that agree.

    Returns:
        Calls made, and the median of the last chunk in s.
    """
    chunk = max(protocol.warmup_s / 3, 0.01)
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


def calls_of_a_block(call_s: float, block_s: float) -> int:
    """Calls that a block has whatever its length, for calls of ``call_s`` s: 3, or fewer if slow.

    Args:
        call_s: Time of one call, in s.
        block_s: Length of a block, in s.
    """
    affordable = int(_LONGEST * block_s / max(call_s, 1e-9))
    return max(1, min(_CALLS, affordable))


def balanced_order(candidate_first: bool) -> Iterator[bool]:
    """Whether the candidate goes first, pair by pair without end: ABBA, or its mirror image."""
    return itertools.cycle(
        (candidate_first, not candidate_first, not candidate_first, candidate_first)
    )


class _Measuring:
    """The state of measuring one batch size."""

    def __init__(
        self,
        sides: dict[str, Side],
        batch_size: int,
        protocol: MeasureProtocol,
        load: ForeignLoad,
        sleep: Callable[[float], None],
        process: int,
    ) -> None:
        self.sides = sides
        self.batch_size = batch_size
        self.protocol = protocol
        self.load = load
        self.sleep = sleep
        self.process = process
        self.blocks: list[TimedBlock] = []
        self.spent = 0.0
        self.waited = 0.0
        self.lead = dict.fromkeys(sides, _LEAD_S)
        self.least = dict.fromkeys(sides, 1)

    def wait_for_quiet(self) -> None:
        """Sleep until others leave the CPU, or the patience is used up."""
        while self.waited < self.protocol.quiet_wait_s:
            before = self.load.sample()
            self.sleep(_WAIT_STEP_S)
            self.waited += _WAIT_STEP_S
            share = self.load.since(before)
            if share is None or share.foreign <= self.protocol.max_foreign_share:
                return

    def settle(self, side: str) -> None:
        """Let the spinning threads of the other side go to sleep, where there are any."""
        for name, other in self.sides.items():
            if name == side:
                continue
            slept = 0.0
            while slept < self.protocol.settle_s:
                step = min(_SETTLE_STEP_S, self.protocol.settle_s - slept)
                before, since = other.cpu_s(), time.monotonic()
                if before is None:  # it cannot be seen whether it spins
                    step = self.protocol.settle_s - slept
                self.sleep(step)
                slept += step
                used = _since(before, other.cpu_s())
                if used is not None and used < _IDLE * max(step, time.monotonic() - since):
                    break

    def take(self, side: str, pair: int) -> TimedBlock:
        """One block of one side."""
        self.settle(side)
        before = self.load.sample()
        times = self.sides[side].block(
            self.batch_size,
            self.protocol.block_s,
            self.least[side],
            _MAX_CALLS,
            self.lead[side],
        )
        recompile.refuse(times.compiled, self.batch_size)
        share = self.load.since(before)
        foreign = None if share is None else share.foreign
        disturbed = foreign is not None and foreign > self.protocol.max_foreign_share
        block = TimedBlock(self.batch_size, side, pair, times, foreign, disturbed, self.process)
        self.blocks.append(block)
        self.spent += times.wall_s
        return block


@dataclass
class Taken:
    """The blocks of one batch size and start, not yet judged.

    Attributes:
        blocks: In order of time.
        warmup_calls: The candidate's calls before its first block.
    """

    blocks: list[TimedBlock]
    warmup_calls: int


def take_batch(
    candidate: Side,
    baseline: Side | None,
    batch_size: int,
    protocol: MeasureProtocol,
    load: ForeignLoad,
    candidate_first: bool = True,
    sleep: Callable[[float], None] = time.sleep,
    process: int = 0,
) -> Taken:
    """Time one batch size: warm up, then pairs of blocks until sure or out of time.

    Args:
        candidate: What is measured.
        baseline: What it is compared with, or None.
        batch_size: Samples per call.
        protocol: How.
        load: Tells what others took of the CPU.
        candidate_first: Whether the candidate begins the first pair.
        sleep: How to pause; replaced in tests.
        process: Which start of the two sides this is, from 0.

    Returns:
        All blocks, those set aside included.
    """
    sides = {CANDIDATE: candidate} | ({BASELINE: baseline} if baseline is not None else {})
    state = _Measuring(sides, batch_size, protocol, load, sleep, process)
    warm_calls = 0
    for name, side in sides.items():
        calls, median = warm_up(side, batch_size, protocol)
        if name == CANDIDATE:
            warm_calls = calls
        state.least[name] = calls_of_a_block(median, protocol.block_s)
        if median > protocol.block_s / 4:
            state.lead[name] = 0.0
    look = protocol.min_pairs
    order = balanced_order(candidate_first)
    first = next(order)
    for number in range(protocol.max_pairs):
        # A pair is only a pair if its blocks are neighbours: with one block disturbed, both are
        # repeated, in the same order.
        names = list(sides) if first else list(reversed(sides))
        pair = [state.take(name, number) for name in names]
        if number + 1 >= protocol.min_pairs and (
            state.spent >= protocol.max_seconds or set_aside(state.blocks) > protocol.max_disturbed
        ):
            break
        if any(block.disturbed for block in pair):
            state.wait_for_quiet()
            continue
        first = next(order)
        # Looking after every pair would stop at lucky moments; so look ever more rarely.
        quiet = pairs(state.blocks, quiet=True)
        if len(quiet) >= look:
            if settled(quiet, protocol.target_half_width):
                break
            look = math.ceil(len(quiet) * 1.3)
    return Taken(state.blocks, warm_calls)


def take(
    candidate: Side,
    baseline: Side | None,
    protocol: MeasureProtocol,
    load: ForeignLoad,
    sleep: Callable[[float], None] = time.sleep,
    process: int = 0,
    key: str = "",
) -> list[Taken]:
    """Time every batch size of the protocol, smallest first; see :func:`take_batch`.

    Args:
        candidate: What is measured.
        baseline: What it is compared with, or None.
        protocol: How; of this start alone.
        load: Tells what others took of the CPU.
        sleep: How to pause; replaced in tests.
        process: Which start of the two sides this is, from 0.
        key: Names the experiment: another one begins with another side.
    """
    return [
        take_batch(
            candidate,
            baseline,
            size,
            protocol,
            load,
            candidate_first(protocol.seed, key, size, process),
            sleep,
            process,
        )
        for size in sorted(protocol.batch_sizes)
    ]


def candidate_first(seed: int, key: str, batch_size: int, process: int) -> bool:
    """Who begins: drawn for the experiment and batch size, the other one in every second start.

    Args:
        seed: Of the protocol.
        key: Names the experiment, such as its fingerprint.
        batch_size: Samples per call.
        process: Which start, from 0.
    """
    drawn = np.random.default_rng([seed, zlib.crc32(key.encode()), batch_size]).integers(2)
    return bool((int(drawn) + process) % 2)


def judge(starts: Sequence[Sequence[Taken]], protocol: MeasureProtocol) -> list[BatchResult]:
    """Latency and speedup by batch size, from one or several starts of the two sides.

    Args:
        starts: What :func:`take` gave, one per start.
        protocol: The whole one, not a start's part.
    """
    return [
        conclude(
            [block for taken in batch for block in taken.blocks],
            protocol,
            sum(taken.warmup_calls for taken in batch),
        )
        for batch in zip(*starts, strict=True)
    ]


def measure(
    candidate: Side,
    baseline: Side | None,
    protocol: MeasureProtocol,
    load: ForeignLoad,
    sleep: Callable[[float], None] = time.sleep,
) -> list[BatchResult]:
    """Time and judge both sides in one start, smallest batch size first."""
    return judge([take(candidate, baseline, protocol, load, sleep)], protocol)
