"""Energy by counters of the hardware: RAPL for the CPU package, NVML for a GPU.

Both sides run in turns, once in each of their starts, and what the device takes when idle, read
in the same round, is taken off. Where no counter can be read the result is null with the reason.
Nothing is estimated from a thermal design power.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pqbench.core.record import Energy
from pqbench.measure.intervals import median_interval
from pqbench.measure.latency import Block

# NVML's counter moves every 20 to 100 ms: a window of a second keeps that below a tenth. RAPL's
# moves every ms.
_WINDOW_S = {"nvml": 1.0, "rapl": 0.5}

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        source: ``rapl`` or ``nvml``.
        joules: Energy by counter since some fixed time, in J.
        wrap: Value in J at which each counter starts again; 0 if it does not.
    """

    source: str
    joules: dict[str, float]
    wrap: dict[str, float]


def read(device: str, powercap: Path = POWERCAP) -> tuple[Reading | None, str]:
    """Read the counters of the device that runs the model.

    Args:
        device: ``cpu`` or ``cuda:<index>``.
        powercap: Where RAPL is found.

    Returns:
        The counters, or None with the reason.
    """
    if device.startswith("cuda"):
        return _read_nvml(device)
    return _read_rapl(powercap)


def _read_rapl(powercap: Path) -> tuple[Reading | None, str]:
    packages = [
        folder
        for folder in sorted(powercap.glob("intel-rapl:*"))
        if folder.name.count(":") == 1 and (folder / "energy_uj").exists()
    ]
    if not packages:
        return None, f"no RAPL counter on this machine ({powercap} holds none)"
    joules, wrap = {}, {}
    for folder in packages:
        try:
            joules[folder.name] = int((folder / "energy_uj").read_text()) / 1e6
            wrap[folder.name] = int((folder / "max_energy_range_uj").read_text()) / 1e6
        except OSError as error:
            return None, f"RAPL cannot be read: {error.strerror} ({folder / 'energy_uj'})"
    return Reading("rapl", joules, wrap), ""


def _read_nvml(device: str) -> tuple[Reading | None, str]:
    from pqbench.machine.gpu import nvml_device

    with nvml_device(device) as gpu:
        if gpu is None:
            return None, "NVML does not find the GPU, or nvidia-ml-py is not installed"
        try:
            value = gpu.nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle) / 1e3
        except gpu.nvml.NVMLError as error:
            return None, f"this GPU has no energy counter ({error})"
    return Reading("nvml", {device: value}, {device: 0.0}), ""


def joules_between(before: Reading, after: Reading) -> float:
    """Energy between two readings in J; a counter that started again once is put right."""
    total = 0.0
    for name, start in before.joules.items():
        used = after.joules[name] - start
        if used < 0:
            used += before.wrap[name]
        total += used
    return total


class Runs(Protocol):
    """One side: something whose calls can be timed."""

    def block(self, batch_size: int, seconds: float) -> Block:
        """Call back to back."""
        ...


@dataclass(frozen=True)
class Round:
    """Energy of one start.

    Attributes:
        source: ``rapl`` or ``nvml``.
        idle_watts: Power with both sides loaded and nothing running, in W.
        joules: Per sample in J, above idle: of the candidate and, where there is one, the baseline.
    """

    source: str
    idle_watts: float
    joules: tuple[float, ...]


def measure(
    sides: Sequence[Runs],
    device: str,
    batch_size: int,
    reverse: bool = False,
    counter: Callable[[str], tuple[Reading | None, str]] = read,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Round | str:
    """One round: idle, then each side.

    Args:
        sides: Candidate and, where there is one, baseline; loaded and warm.
        device: ``cpu`` or ``cuda:<index>``.
        batch_size: Samples per call.
        reverse: The baseline goes first.
        counter: Reads the counters; replaced in tests.
        sleep: How to pause; replaced in tests.
        clock: Seconds; replaced in tests.

    Returns:
        The round, or why there is none.
    """
    first, reason = counter(device)
    if first is None:
        return reason
    window = _WINDOW_S[first.source]

    def spent(work: Callable[[], int]) -> tuple[float, float, int]:
        before, began = counter(device)[0], clock()
        samples = work()
        after, took = counter(device)[0], clock() - began
        assert before is not None  # it was readable a moment ago
        assert after is not None
        return joules_between(before, after), took, samples

    def rest() -> int:
        sleep(window)
        return 0

    joules, took, _ = spent(rest)
    watts = joules / took
    found: dict[int, float] = {}
    order = list(enumerate(sides))
    for index, side in reversed(order) if reverse else order:
        joules, took, samples = spent(
            lambda side=side: len(side.block(batch_size, window).ns) * batch_size  # type: ignore[misc]
        )
        if joules <= 0:
            return "the counter did not move"
        if joules <= watts * took:
            return "the device took no more than when idle: the counter is too coarse for this work"
        found[index] = (joules - watts * took) / samples
    return Round(first.source, watts, tuple(value for _, value in sorted(found.items())))


def conclude(rounds: Sequence[Round | str], batch_size: int) -> tuple[Energy, dict[str, str]]:
    """The record's entry from the rounds of all starts, and why fields of it are null.

    Args:
        rounds: One per start; a text says why there is none.
        batch_size: Samples per call.

    Returns:
        Energy above idle, the geometric mean of the rounds; the interval is Student's t on the
        rounds' logarithms. With a single round there is none.
    """
    good = [r for r in rounds if isinstance(r, Round)]
    missing = [r for r in rounds if isinstance(r, str)]
    if missing or not good:
        reason = missing[0] if missing else "nothing was measured"
        return Energy(), {"joules_per_sample": reason, "source": reason}
    ours = [r.joules[0] for r in good]
    entry = Energy(
        joules_per_sample=_mean(ours),
        source=good[0].source,
        batch_size=batch_size,
        idle_watts=float(np.mean([r.idle_watts for r in good])),
        rounds=len(good),
    )
    reasons = {}
    if len(good) > 1:
        entry.low, entry.high = median_interval(ours)
    else:
        reasons["low"] = reasons["high"] = "a single round: its interval cannot be told"
    if all(len(r.joules) > 1 for r in good):
        theirs = [r.joules[1] for r in good]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        entry.baseline_joules_per_sample = _mean(theirs)
        entry.ratio = _mean(ratios)
        if len(good) > 1:
            entry.ratio_low, entry.ratio_high = median_interval(ratios)
    return entry, reasons


def _mean(values: Sequence[float]) -> float:
    """Geometric."""
    return math.exp(float(np.mean(np.log(values))))
