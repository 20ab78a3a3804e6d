"""Trials of a partly quantized model on the runtime that will run it: its time, its outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.compress.bias_correction import opened
from pqbench.core.statistics import mean_of
from pqbench.machine import device_lock

Feed = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Feed], npt.NDArray[Any]]
Clock = Callable[[], int]
WARM_UP = 3
LEAST_CALLS = 3
SETTLE_S = 0.02  # the pool of the session that ran before spins on for a moment


def _ort(path: Path, threads: int) -> Run:
    session = opened(path, threads)
    name = session.get_outputs()[0].name

    def run(feed: Feed) -> npt.NDArray[Any]:
        output: npt.NDArray[Any] = session.run([name], dict(feed))[0]
        return output

    return run


def _openvino(path: Path, threads: int) -> Run:
    import openvino

    compiled = openvino.Core().compile_model(
        str(path),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()

    def run(feed: Feed) -> npt.NDArray[Any]:
        request.infer(dict(feed))
        return np.array(request.get_output_tensor(0).data)

    return run


RUNTIMES: Mapping[str, Callable[[Path, int], Run]] = {"ort": _ort, "openvino": _openvino}
"""What opens an ONNX file, with so many threads; gives its first output for a feed."""


@dataclass(frozen=True)
class Timed:
    """A candidate timed in turns with the float model.

    Attributes:
        float_ms: Median call of the float model.
        ms: Median call of the candidate.
        won_share: Share of the float model's time that is won: 1 less the median over the turns of
            the candidate's median over the float model's. A machine whose own speed changes in
            between moves both.
        speedup: Geometric mean over the turns of the float model's median over the candidate's.
        lower: One-sided lower bound of the speedup at 97.5 %, Student's t over the turns.
    """

    float_ms: float
    ms: float
    won_share: float
    speedup: float
    lower: float


def in_turns(
    reference: Run,
    candidate: Run,
    feed: Feed,
    turns: int,
    block_s: float,
    clock: Clock = time.perf_counter_ns,
) -> Timed:
    """Time two sessions in turns, alone on the device.

    The order changes from turn to turn, so that a drift of the machine cancels.

    Args:
        reference: The float model.
        candidate: Another.
        feed: Inputs.
        turns: Pairs of blocks, at least 2.
        block_s: Seconds of calls in a block.
        clock: Tells nanoseconds.
    """
    sides = (reference, candidate)
    medians: list[tuple[float, float]] = []
    with device_lock.timing("cpu"):
        for run in sides:
            for _ in range(WARM_UP):
                run(feed)
        for turn in range(turns):
            found = [0.0, 0.0]
            for side in (0, 1) if turn % 2 else (1, 0):
                time.sleep(SETTLE_S)
                found[side] = _median_ms(sides[side], feed, block_s, clock)
            medians.append((found[0], found[1]))
    exact, other = np.array(medians).T
    logs = mean_of(np.log(exact / other))
    assert logs is not None
    return Timed(
        float_ms=float(np.median(exact)),
        ms=float(np.median(other)),
        won_share=float(1 - np.median(other / exact)),
        speedup=float(np.exp(logs.value)),
        lower=float(np.exp(logs.lower(0.975))),
    )


def _median_ms(run: Run, feed: Feed, block_s: float, clock: Clock) -> float:
    times: list[int] = []
    run(feed)
    end = clock() + round(block_s * 1e9)
    while len(times) < LEAST_CALLS or clock() < end:
        begin = clock()
        run(feed)
        times.append(clock() - begin)
    return float(np.median(times)) / 1e6


def outputs(run: Run, feeds: Sequence[Feed]) -> npt.NDArray[np.float64]:
    """First outputs of some samples, (samples, ...)."""
    return np.concatenate([np.asarray(run(feed), np.float64) for feed in feeds])


def noise_power(exact: npt.NDArray[Any], rounded: npt.NDArray[Any]) -> float:
    """Power of the error over that of the output about its mean over the samples."""
    spread = exact - exact.mean(axis=0)
    return float(((exact - rounded) ** 2).sum() / max(float((spread**2).sum()), 1e-30))


def right(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which samples are answered right: scores (n, classes), labels (n,)."""
    answers: npt.NDArray[np.bool_] = scores.reshape(len(scores), -1).argmax(axis=1) == labels
    return answers
