"""Measure one cell: candidate and baseline in two session processes that take turns.

First the candidate alone, in a process that is loaded only to be weighed and to tell its cold
times. Then several starts of both sides: each pair of processes is loaded at once, sharing the
device with other work, and timed while the device lock is held alone. The last pair is also scored
and, at the very end, profiled: what is scored is a session that was timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.core.backend import Backend
from pqbench.core.errors import DataError
from pqbench.core.instantiate import make
from pqbench.core.record import Cold, Energy, Memory, PlacementInfo, Profile
from pqbench.core.split import PreparedSplit
from pqbench.experiment.cell_result import CellResult
from pqbench.machine import device_lock as lock
from pqbench.machine.cpu import load_average, usable_cores
from pqbench.machine.foreign_load import ForeignLoad
from pqbench.measure import energy, paired
from pqbench.measure.blocks import save_blocks
from pqbench.measure.profile import disagreement, explain, mean_profile
from pqbench.measure.protocol import MeasureProtocol
from pqbench.workers.forkserver import wait_until_idle
from pqbench.workers.session import SessionWorker

LATENCY_FILE = "latency.parquet"
LOGITS_FILE = "logits.npy"
CLEAN_LOGITS_FILE = "logits_clean.npy"
_MEMORY_CALLS = 3
_PROFILE_RUNS = 5
# Candidate, baseline, and in the other order: drift of the machine cancels.
_PROFILE_TURNS = ((0, 1), (1, 0))


@dataclass(frozen=True)
class SideSpec:
    """One side of a comparison.

    Attributes:
        backend: Resolved configuration node of the backend: ``_target_`` and options.
        artifact: Folder of the model, in the representation that the backend loads.
        split: Folder of the prepared split that gives the inputs and is scored.
        name: For messages and log files, ``candidate`` or ``baseline``.
    """

    backend: Mapping[str, Any]
    artifact: Path
    split: Path
    name: str


def run_cell(
    candidate: SideSpec,
    baseline: SideSpec | None,
    protocol: MeasureProtocol,
    out: Path,
    threads: int | None = None,
    device: str | None = None,
    clean: Path | None = None,
    memory_mb: float | None = None,
    deadline: float | None = None,
    key: str = "",
) -> CellResult:
    """Weigh the candidate, time both sides in turns, and score the candidate's session.

    Args:
        candidate: What is measured.
        baseline: What it is compared with, or None.
        protocol: How.
        out: Folder for ``latency.parquet``, ``logits.npy`` and the ``logs``.
        threads: Threads of every library in both processes; None takes the usable cores.
        device: The device to lock; None takes the backend's.
        clean: Folder of a second split that is scored as well: images that no pretraining saw.
        memory_mb: Limit of each process's own data in MiB; None: no limit.
        deadline: When all must be done, on :func:`time.monotonic`'s clock; None: no limit.
        key: Names the experiment, such as its fingerprint; with the protocol's seed it decides
            which side begins.

    Returns:
        What the record needs.

    Raises:
        PqbenchError: A side could not be loaded, ran elsewhere than asked, ran out of time or
            memory, or crashed; its attribute ``log`` names the log file.
    """
    out.mkdir(parents=True, exist_ok=True)
    cores = threads or usable_cores()
    cell = _Cell(candidate, baseline, protocol, out, cores, memory_mb, deadline, key)
    locked = device or make(candidate.backend, "backend", Backend).device
    wait_until_idle()
    weighed: _Weighed | None = None
    if protocol.weigh:
        with lock.timing(locked):
            weighed = cell.weigh()
    starts: list[_Start] = []
    with contextlib.ExitStack() as stack:
        for number in range(protocol.processes):
            with contextlib.ExitStack() as loaded:
                with lock.working(locked):
                    sides = cell.load(number, loaded)
                    if number == 0:
                        result = cell.begin(weighed, sides)
                with lock.timing(locked):
                    starts.append(cell.time(sides, number, result))
                if number == protocol.processes - 1:
                    stack.push(loaded.pop_all())  # scored and profiled below
                else:
                    for side in sides:  # both end at once
                        side.leave()
        cell.judge(starts, result)
        if protocol.score:
            with lock.working(locked):
                result.logits = cell.score(sides[0], candidate.split, LOGITS_FILE)
                result.files["logits"] = LOGITS_FILE
                columns = Path(LOGITS_FILE).with_suffix(".json")  # of raw outputs: which is which
                if (out / columns).is_file():
                    result.files["outputs"] = str(columns)
                if clean is not None:
                    result.clean_logits = cell.score(sides[0], clean, CLEAN_LOGITS_FILE)
                    result.files["clean_logits"] = CLEAN_LOGITS_FILE
        else:
            result.reasons["accuracy"] = "protocol.score=false"
        # A glance, which weighs nothing, asks how fast and not why.
        if protocol.profile or (protocol.weigh and result.int8_not_faster()):
            with lock.timing(locked):
                cell.profile(sides, result)
    return result


@dataclass(frozen=True)
class _Weighed:
    """What the candidate's process told that was there to be weighed: cold times, memory."""

    cold: dict[str, Any]
    memory: dict[str, Any]


@dataclass(frozen=True)
class _Start:
    """What one start of both sides gave: its blocks, and its round of energy."""

    taken: list[paired.Taken]
    energy: energy.Round | str


@dataclass(frozen=True)
class _Cell:
    candidate: SideSpec
    baseline: SideSpec | None
    protocol: MeasureProtocol
    out: Path
    threads: int
    memory_mb: float | None
    deadline: float | None
    key: str

    def launch(self, side: SideSpec, label: str = "", weighed: bool = False) -> SessionWorker:
        """Start a session's process without waiting for it.

        Args:
            side: Which side.
            label: Put before the name of its log file.
            weighed: It is there to be weighed, as a deployment would be: with one batch size and
                one batch of inputs.
        """
        sizes = sorted(self.protocol.batch_sizes)
        return SessionWorker.launch(
            backend=side.backend,
            artifact=side.artifact,
            split=side.split,
            batch_sizes=sizes[:1] if weighed else sizes,
            threads=self.threads,
            log=self.out / "logs" / f"{label}{side.name}.log",
            timeout_s=self.protocol.stage_timeout_s,
            name=side.name,
            pool_mb=0.0 if weighed else self.protocol.pool_mb,
            seed=self.protocol.seed,
            memory_mb=self.memory_mb,
            deadline=self.deadline,
            weighed=weighed,
        )

    def weigh(self) -> _Weighed:
        """Memory and cold times of the candidate, alone and at the smallest batch size."""
        with self.launch(self.candidate, "weigh_", weighed=True) as worker:
            cold = worker.opened().cold()
            return _Weighed(cold, worker.memory(min(self.protocol.batch_sizes), _MEMORY_CALLS))

    def load(self, number: int, stack: contextlib.ExitStack) -> list[SessionWorker]:
        """Start the candidate, and the baseline where there is one: both at once where it helps."""
        label = f"start{number}_" if number < self.protocol.processes - 1 else ""
        sides = [side for side in (self.candidate, self.baseline) if side is not None]
        if any(make(side.backend, "backend", Backend).runs_to_load for side in sides):
            return [stack.enter_context(self.launch(side, label)).opened() for side in sides]
        workers = [stack.enter_context(self.launch(side, label)) for side in sides]
        return [worker.opened() for worker in workers]

    def begin(self, weighed: _Weighed | None, sides: Sequence[SessionWorker]) -> CellResult:
        """The result so far, once both sides have proved that they run where they were asked to."""
        placement, *_ = [PlacementInfo(**side.placement()) for side in sides]
        opened = sides[0].cold()
        result = CellResult(
            latency=[],
            speedup=[],
            cold=Cold(),
            memory=Memory(),
            energy=Energy(),
            placement=placement,
            device=opened["device"],
        )
        if weighed is None:
            result.note_not_weighed()
        else:
            result.cold = Cold(**weighed.cold["cold"])
            result.memory = Memory(**weighed.memory["memory"])
            result.reasons |= {**weighed.cold["reasons"], **weighed.memory["reasons"]}
        if not opened["denormals_flushed"]:
            result.notes.append("subnormal floats are not flushed to zero on this platform")
        result.note_placement(self.threads)
        return result

    def time(self, sides: Sequence[SessionWorker], number: int, result: CellResult) -> _Start:
        """One start: latency in turns, then energy in turns."""
        result.load_average.setdefault("start", load_average())
        load = ForeignLoad([side.pid for side in sides])
        ours, theirs = sides[0], sides[1] if len(sides) > 1 else None
        taken = paired.take(ours, theirs, self.protocol.part(), load, process=number, key=self.key)
        if load.reason and number == 0:
            result.notes.append(f"foreign load was not watched: {load.reason}")
        joules = energy.measure(
            list(sides),
            result.device,
            max(self.protocol.batch_sizes),
            reverse=bool(number % 2),
        )
        result.load_average["end"] = load_average()
        return _Start(taken, joules)

    def judge(self, starts: Sequence[_Start], result: CellResult) -> None:
        """What all starts together say."""
        measured = paired.judge([start.taken for start in starts], self.protocol)
        result.latency = [m.latency for m in measured]
        result.speedup = [m.speedup for m in measured if m.speedup is not None]
        save_blocks(measured, self.out / LATENCY_FILE)
        result.files["latency"] = LATENCY_FILE
        result.energy, why = energy.conclude(
            [start.energy for start in starts], max(self.protocol.batch_sizes)
        )
        result.reasons |= {f"energy.{name}": reason for name, reason in why.items()}

    def score(self, ours: SessionWorker, folder: Path, file: str) -> str:
        """Score a whole split through the session that was timed; gives the name of the file."""
        split = PreparedSplit.load(folder)
        # A middle batch size: its calls are warm, and few samples are wasted on the last one.
        sizes = sorted(self.protocol.batch_sizes)
        batch_size = max((b for b in sizes if b <= 32), default=sizes[0])
        count = ours.predict(self.out / file, batch_size, folder)
        if count != split.count:
            raise DataError(f"scored {count} samples, the split {split.folder} has {split.count}")
        return file

    def profile(self, sides: Sequence[SessionWorker], result: CellResult) -> None:
        """Profile both sides in turns at the smallest batch size; nothing is timed afterwards."""
        batch_size = min(self.protocol.batch_sizes)
        found: list[list[dict[str, float]]] = [[] for _ in sides]
        for turn in _PROFILE_TURNS:
            for index in (i for i in turn if i < len(sides)):
                found[index].append(sides[index].profile(batch_size, _PROFILE_RUNS))
        ms, baseline_ms = [mean_profile(profiles) for profiles in (*found, [])][:2]
        if not ms:
            result.reasons["profile"] = "this backend's sessions have no profiler"
            return
        placement = result.placement
        why_not = disagreement(
            ms,
            baseline_ms,
            next(x.p50_ms for x in result.latency if x.batch_size == batch_size),
            next((s for s in result.speedup if s.batch_size == batch_size), None),
        )
        if why_not:
            result.reasons["profile.explanation"] = why_not
        result.profile = Profile(
            batch_size=batch_size,
            ms=ms,
            baseline_ms=baseline_ms,
            explanation=""
            if why_not
            else explain(ms, baseline_ms, placement.int8_share, placement.float_reasons),
        )
