"""Simulated measurements with a known truth: timed blocks, answers, class maps, and their records.

The noise is what real machines show: calls of a block move together and neighbouring blocks too
(*correlated*), a clock has two speeds (*bimodal*) or sinks (*drift*), some calls and blocks are
far off (*heavy*); every start of a process is off by its own 1.5 % for its whole life.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pqbench.core.proportions import wilson
from pqbench.core.record import Accuracy, Experiment, Record, Speedup
from pqbench.measure.accuracy import compare
from pqbench.measure.blocks import BASELINE, CANDIDATE, BatchResult, TimedBlock, conclude
from pqbench.measure.intervals import ratio_interval
from pqbench.measure.latency import Block
from pqbench.measure.protocol import MeasureProtocol

Floats = npt.NDArray[np.float64]

NOISES = ("quiet", "correlated", "bimodal", "drift", "heavy")
START_SD = 0.015  # of a ratio's logarithm from start to start
CALL_MS = 5.0


@dataclass(frozen=True)
class Plan:
    """How a simulated experiment is measured.

    Attributes:
        name: Of the protocol.
        starts: Of both sides.
        pairs: Blocks of each side in each start.
        calls: In each block.
        start_sd: Of the ratio's logarithm from start to start.
    """

    name: str
    starts: int
    pairs: int
    calls: int = 24
    start_sd: float = START_SD


PLANS = (
    Plan("quick", 5, 3),
    Plan("default", 8, 3),
    Plan("paper", 12, 4, 50),
    Plan("two starts", 2, 5),
    Plan("one start, few blocks", 1, 4, start_sd=0.0),
    Plan("one start", 1, 20, start_sd=0.0),
)


def shared_levels(noise: str, blocks: int, rng: np.random.Generator) -> Floats:
    """What moves both sides together, on the log scale, one value per block in order of time."""
    if noise == "correlated":
        levels, level = [], rng.normal()
        for _ in range(blocks):
            levels.append(0.02 * level)
            level = 0.7 * level + math.sqrt(1 - 0.7**2) * rng.normal()
        return np.array(levels)
    if noise == "drift":
        return 0.1 * (np.arange(blocks) / max(blocks - 1, 1) - 0.5)
    return np.zeros(blocks)


def own_levels(noise: str, blocks: int, rng: np.random.Generator) -> Floats:
    """What moves one side alone, on the log scale."""
    if noise == "bimodal":
        return np.asarray(rng.choice([-0.01, 0.01], blocks) + rng.normal(0, 0.003, blocks))
    if noise == "heavy":
        return np.asarray(0.01 * rng.standard_t(3, blocks))
    return np.asarray(rng.normal(0, 0.005, blocks))


def calls(level: float, count: int, rng: np.random.Generator, noise: str) -> npt.NDArray[np.int64]:
    """Times of the calls of a block in ns: a floor and a tail, longer where it is heavy."""
    tail = rng.exponential(0.01, count)
    if noise == "bimodal":
        tail += 0.08 * (rng.random(count) < 0.3)
    if noise == "heavy":
        tail = tail * np.where(rng.random(count) < 0.03, 20.0, 1.0)
    return np.asarray(1e6 * CALL_MS * math.exp(level) * (1 + tail), np.int64)


def timed(
    plan: Plan, noise: str, speedup: float, rng: np.random.Generator, batch_size: int = 1
) -> BatchResult:
    """One batch size measured: the record's latency and speedup, as the real path judges them."""
    blocks = []
    for start in range(plan.starts):
        side_sd = plan.start_sd / math.sqrt(2)
        offsets = {
            CANDIDATE: rng.normal(0, side_sd),
            BASELINE: math.log(speedup) + rng.normal(0, side_sd),
        }
        shared = shared_levels(noise, 2 * plan.pairs, rng)
        own = {side: own_levels(noise, plan.pairs, rng) for side in offsets}
        for pair in range(plan.pairs):
            first = (pair + 1) // 2 + start  # ABBA within a start, turned round in the next
            order = (CANDIDATE, BASELINE) if first % 2 else (BASELINE, CANDIDATE)
            for place, side in enumerate(order):
                level = offsets[side] + own[side][pair] + shared[2 * pair + place]
                block = Block(calls(level, plan.calls, rng, noise), 0.1, 0.1)
                blocks.append(TimedBlock(batch_size, side, pair, block, 0.0, False, start))
    protocol = MeasureProtocol(name=plan.name, min_pairs=1, processes=plan.starts)
    return conclude(blocks, protocol)


def record_of(
    name: str, speedups: Sequence[Speedup] = (), accuracy: Accuracy | None = None
) -> Record:
    """A record with these results; without any it is a baseline."""
    candidate = bool(speedups) or accuracy is not None
    return Record(
        status="ok",
        experiment=Experiment(
            model="simulated",
            task="classification",
            dataset="simulated",
            split="val",
            recipe=[name] if candidate else [],
            backend="simulated",
        ),
        fingerprint=name,
        baseline="baseline" if candidate else None,
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        command="",
        config={},
        environment={},
        speedup=list(speedups),
        accuracy=accuracy,
    )


def accuracy_of(
    ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> Accuracy:
    """What a record keeps of two models' answers on the same samples."""
    right = int(np.sum(ours == labels))
    low, high = wilson(right, len(labels))
    return Accuracy(
        split="val",
        count=len(labels),
        top1=right / len(labels),
        top1_low=low,
        top1_high=high,
        macro_f1=0.0,
        top5=None,
        against_baseline=compare(ours, theirs, labels),
    )


def margin_record(name: str, ratios: Floats, lost: int, gained: int, count: int) -> Record:
    """A record with these ratios of its starts, and a drop moved to the margin of one point."""
    mean, low, high = ratio_interval(ratios.tolist(), range(len(ratios)))
    gain = Speedup(1, mean, low, high, len(ratios), 0, False, CALL_MS, ratios.tolist())
    labels = np.zeros(count, np.int64)
    theirs, ours = labels.copy(), labels.copy()
    ours[:lost] = 1
    theirs[lost : lost + gained] = 1
    return record_of(name, [gain], accuracy_of(ours, theirs, labels))


def answers(
    labels: npt.NDArray[np.int64], recall: Floats, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Answers that are right with the class's recall and else any other class."""
    classes = len(recall)
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    right = rng.random(len(labels)) < recall[labels]
    return np.where(right, labels, wrong)


def class_maps(
    images: int, quality: Floats, present: Floats, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Pixel counts by image and class: right, labelled, predicted, (images, C, 3).

    Images differ in the size and in the difficulty of their areas; what is missed of a class is
    predicted as the next one.
    """
    classes = len(quality)
    size = np.exp(rng.normal(7.5, 0.8, (images, classes)))
    labelled = (size * (rng.random((images, classes)) < present)).astype(np.int64)
    logit = np.log(quality / (1 - quality)) + 0.8 * rng.normal(size=(images, classes))
    right = rng.binomial(labelled, 1 / (1 + np.exp(-logit)))
    predicted = right + np.roll(labelled - right, 1, axis=1)
    return np.stack([right, labelled, predicted], -1)
