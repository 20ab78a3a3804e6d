"""Sessions timed and profiled in turns, kernel by kernel: what a table of layers is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.core.backend import KernelProfile
from pqbench.core.errors import UnsupportedError
from pqbench.machine import device_lock as lock
from pqbench.report.layers import LayerTable, layer_table, mean_profile
from pqbench.workers.forkserver import wait_until_idle
from pqbench.workers.session import SessionWorker

BLOCK_S, LEAD_S, WARM_UP_S = 0.12, 0.03, 0.2
PROFILE_S = 0.25
STARTS = 8
LEAST_RUNS, MOST_RUNS = 8, 500
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class SessionSpec:
    """What a session is made of.

    Attributes:
        name: For messages.
        backend: Resolved configuration node of the backend.
        artifact: Folder of the model.
        threads: Threads of every library in its process.
    """

    name: str
    backend: Mapping[str, Any]
    artifact: Path
    threads: int


def in_turns(
    specs: Sequence[SessionSpec],
    split: Path,
    work: Path,
    device: str = "cpu",
    batch_size: int = 1,
    starts: int = STARTS,
) -> LayerTable:
    """Start sessions several times; time and profile them in turns while nothing else runs.

    Args:
        specs: The sessions, two at least.
        split: Folder of the prepared split that gives the inputs.
        work: For logs.
        device: Where they run.
        batch_size: Samples per call.
        starts: Fresh starts of all, two at least.

    Raises:
        PqbenchError: A session could not be made, its runtime does not tell kernels, or they are
            none of the first session's layers.
    """
    timed: list[list[float]] = [[] for _ in specs]
    profiles: list[list[KernelProfile]] = [[] for _ in specs]
    wait_until_idle()
    for number in range(starts):
        with contextlib.ExitStack() as stack:
            with lock.working(device):
                timing, profiling = (
                    [stack.enter_context(_launch(s, split, work, batch_size, kind)) for s in specs]
                    for kind in ("timed", "profiled")
                )
                for worker in (*timing, *profiling):
                    worker.opened()
            with lock.timing(device):
                taken = _take_turns(specs, timing, profiling, batch_size, bool(number % 2))
        for index, (ms, profile) in enumerate(taken):
            timed[index].append(ms)
            profiles[index].append(profile)
        if not number:
            check_names([spec.name for spec in specs], [own[0] for own in profiles])
    return layer_table([spec.name for spec in specs], profiles, timed)


def check_names(names: Sequence[str], profiles: Sequence[KernelProfile]) -> None:
    """Refuse sessions that share no names: PyTorch's modules are not an ONNX file's operators.

    Args:
        names: Of the sessions.
        profiles: One of each.

    Raises:
        UnsupportedError: A session names none of the first one's layers.
    """
    layers = profiles[0].operators
    known = {layer.name for layer in layers} | {name for o in layers for name in o.outputs}
    for name, profile in zip(names, profiles, strict=True):
        if not any(origin in known for kernel in profile.kernels for origin in kernel.origins):
            raise UnsupportedError(
                f"{name}: it names none of the layers of {names[0]}",
                hint="compare records of PyTorch with each other, and those of ONNX files likewise",
            )


def _launch(
    spec: SessionSpec, split: Path, work: Path, batch_size: int, kind: str
) -> SessionWorker:
    return SessionWorker.launch(
        backend=spec.backend,
        artifact=spec.artifact,
        split=split,
        batch_sizes=[batch_size],
        threads=spec.threads,
        log=work / f"{kind}.log",
        timeout_s=TIMEOUT_S,
        name=spec.name,
    )


def _take_turns(
    specs: Sequence[SessionSpec],
    timing: Sequence[SessionWorker],
    profiling: Sequence[SessionWorker],
    batch_size: int,
    reverse: bool,
) -> list[tuple[float, KernelProfile]]:
    """One start's timed ms of a call and profile of each side: there and back, drift cancels.

    Each profile lies between two timed blocks.
    """
    order = list(reversed(range(len(specs)))) if reverse else list(range(len(specs)))
    medians: list[list[float]] = [[] for _ in specs]
    profiles: list[list[KernelProfile]] = [[] for _ in specs]
    for worker in timing:
        worker.block(batch_size, WARM_UP_S, min_calls=3)
    for index in [*order, *order[::-1]]:
        first = timing[index].block(batch_size, BLOCK_S, min_calls=3, lead_s=LEAD_S).median_ms
        runs = min(max(round(1e3 * PROFILE_S / first), LEAST_RUNS), MOST_RUNS)
        profile = profiling[index].kernels(batch_size, runs)
        second = timing[index].block(batch_size, BLOCK_S, min_calls=3, lead_s=LEAD_S).median_ms
        if profile is None:
            raise UnsupportedError(
                f"{specs[index].name}: the runtime does not tell its kernels",
                hint="compare records on ONNX Runtime or OpenVINO, or of eager PyTorch on a CPU",
            )
        medians[index] += [first, second]
        profiles[index].append(profile)
    return [
        (sum(ms) / len(ms), mean_profile(own)) for ms, own in zip(medians, profiles, strict=True)
    ]
