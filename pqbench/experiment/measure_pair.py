"""Measure one cell: candidate and baseline in two session processes that take turns.

The same session is timed, weighed and scored. Everything that is timed, cold times included,
happens while the device lock is held alone; scoring and profiling share it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.core.backend import Backend
from pqbench.core.errors import DataError
from pqbench.core.instantiate import make
from pqbench.core.record import Cold, Energy, Latency, Memory, PlacementInfo, Profile, Speedup
from pqbench.core.split import PreparedSplit
from pqbench.machine import device_lock as lock
from pqbench.machine.cpu import load_average, usable_cores
from pqbench.machine.foreign_load import ForeignLoad
from pqbench.measure import energy, paired
from pqbench.measure.blocks import save_turns
from pqbench.measure.profile import explain
from pqbench.measure.protocol import MeasureProtocol
from pqbench.workers.session import SessionWorker

LATENCY_FILE = "latency.parquet"
LOGITS_FILE = "logits.npy"
CLEAN_LOGITS_FILE = "logits_clean.npy"
# An INT8 model below this speedup is profiled: its user will ask why.
_FAST_ENOUGH = 1.1
_LOW_SHARE = 0.9
_MEMORY_CALLS = 3
_PROFILE_RUNS = 10


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


@dataclass
class CellResult:
    """What was measured, as the record wants it.

    Attributes:
        latency: Of the candidate, by batch size.
        speedup: Over the baseline, by batch size; empty without one.
        cold: Cold times of the candidate.
        memory: Of the candidate's process.
        energy: Of the candidate at the largest batch size.
        placement: Where the candidate ran.
        profile: Where the time goes, if asked for or if INT8 is not faster.
        logits: File with the first output for every sample, relative to the folder; or None.
        clean_logits: The same for the second split, where there is one.
        files: Files written, relative to the folder, by what they hold.
        device: ``cpu`` or ``cuda:<index>``.
        load_average: Load of the machine at the start and at the end of timing.
        notes: What a reader must know.
        reasons: Why a field is null, by its path in the record.
    """

    latency: list[Latency]
    speedup: list[Speedup]
    cold: Cold
    memory: Memory
    energy: Energy
    placement: PlacementInfo
    device: str
    profile: Profile | None = None
    logits: str | None = None
    clean_logits: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    load_average: dict[str, list[float] | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


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
) -> CellResult:
    """Load both sides, time them in turns, and score the candidate's session.

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

    Returns:
        What the record needs.

    Raises:
        PqbenchError: A side could not be loaded, ran elsewhere than asked, ran out of time or
            memory, or crashed; its attribute ``log`` names the log file.
    """
    out.mkdir(parents=True, exist_ok=True)
    cores = threads or usable_cores()
    cell = _Cell(candidate, baseline, protocol, out, cores, memory_mb, deadline)
    locked = device or make(candidate.backend, "backend", Backend).device
    with contextlib.ExitStack() as stack:
        with lock.timing(locked):
            earlier = [cell.earlier_start(number) for number in range(protocol.processes - 1)]
            ours = stack.enter_context(cell.start(candidate))
            theirs = stack.enter_context(cell.start(baseline)) if baseline is not None else None
            result = cell.time(ours, theirs, earlier)
        if protocol.score:
            with lock.working(locked):
                result.logits = cell.score(ours, candidate.split, LOGITS_FILE)
                result.files["logits"] = LOGITS_FILE
                if clean is not None:
                    result.clean_logits = cell.score(ours, clean, CLEAN_LOGITS_FILE)
                    result.files["clean_logits"] = CLEAN_LOGITS_FILE
        else:
            result.reasons["accuracy"] = "protocol.score=false"
    if protocol.profile or _int8_not_faster(result):
        with lock.working(locked):
            cell.profile(result)
    return result


@dataclass(frozen=True)
class _Cell:
    candidate: SideSpec
    baseline: SideSpec | None
    protocol: MeasureProtocol
    out: Path
    threads: int
    memory_mb: float | None = None
    deadline: float | None = None

    def start(self, side: SideSpec, label: str = "") -> SessionWorker:
        return SessionWorker.start(
            backend=side.backend,
            artifact=side.artifact,
            split=side.split,
            batch_sizes=sorted(self.protocol.batch_sizes),
            threads=self.threads,
            log=self.out / "logs" / f"{label}{side.name}.log",
            timeout_s=self.protocol.stage_timeout_s,
            name=side.name,
            pool_mb=self.protocol.pool_mb,
            seed=self.protocol.seed,
            memory_mb=self.memory_mb,
            deadline=self.deadline,
        )

    def earlier_start(self, number: int) -> list[paired.Taken]:
        """Start both sides, time this start's share of the blocks, and end them."""
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(self.start(self.candidate, f"start{number}_"))
            theirs = None
            if self.baseline is not None:
                theirs = stack.enter_context(self.start(self.baseline, f"start{number}_"))
            load = ForeignLoad([w.pid for w in (ours, theirs) if w is not None])
            return paired.take(ours, theirs, self.protocol.part(), load, process=number)

    def time(
        self,
        ours: SessionWorker,
        theirs: SessionWorker | None,
        earlier: Sequence[Sequence[paired.Taken]] = (),
    ) -> CellResult:
        """Memory first, in a pass of its own; then latency in turns; then energy.

        The last of the protocol's starts: all that is not latency is told from it alone.
        """
        protocol = self.protocol
        cold = ours.cold()
        largest = max(protocol.batch_sizes)
        # Before the question of placement, for which a runtime may load the model once more.
        weighed = ours.memory(largest, _MEMORY_CALLS)
        placement = PlacementInfo(**ours.placement())
        if theirs is not None:
            theirs.placement()  # proves that the baseline runs where it was asked to
        result = CellResult(
            latency=[],
            speedup=[],
            cold=Cold(**cold["cold"]),
            memory=Memory(**weighed["memory"]),
            energy=Energy(),
            placement=placement,
            device=cold["device"],
            reasons={**cold["reasons"], **weighed["reasons"]},
        )
        result.load_average["start"] = load_average()
        load = ForeignLoad([w.pid for w in (ours, theirs) if w is not None])
        taken = paired.take(ours, theirs, protocol.part(), load, process=len(earlier))
        measured = paired.judge([*earlier, taken], protocol)
        result.load_average["end"] = load_average()
        result.latency = [m.latency for m in measured]
        result.speedup = [m.speedup for m in measured if m.speedup is not None]
        save_turns(measured, self.out / LATENCY_FILE)
        result.files["latency"] = LATENCY_FILE
        self._energy(ours, largest, result)
        self._notes(result, placement, cold, load)
        return result

    def _energy(self, ours: SessionWorker, batch_size: int, result: CellResult) -> None:
        before, reason = energy.read(result.device)
        if before is None:
            result.reasons["energy.joules_per_sample"] = reason
            result.reasons["energy.source"] = reason
            return
        # NVML's counter moves every 20 to 100 ms: a window of a second keeps that below a tenth.
        block = ours.block(batch_size, max(1.0, 2 * self.protocol.block_s))
        after, reason = energy.read(result.device)
        joules = energy.joules_between(before, after) if after is not None else 0.0
        if joules <= 0:
            result.reasons["energy.joules_per_sample"] = reason or "the counter did not move"
            return
        result.energy = Energy(joules / (len(block.ns) * batch_size), before.source)

    def _notes(
        self,
        result: CellResult,
        placement: PlacementInfo,
        cold: Mapping[str, Any],
        load: ForeignLoad,
    ) -> None:
        if load.reason:
            result.notes.append(f"foreign load was not watched: {load.reason}")
        if not cold["denormals_flushed"]:
            result.notes.append("subnormal floats are not flushed to zero on this platform")
        if placement.threads is not None and placement.threads != self.threads:
            result.notes.append(
                f"the runtime uses {placement.threads} threads, {self.threads} were asked for"
            )
        share = placement.int8_share
        if share is not None and 0 < share < _LOW_SHARE:
            result.notes.append(
                f"INT8 in part: {placement.integer} of {placement.quantizable} quantizable "
                f"operators ({share:.0%}) run as integer kernels"
            )
        if share is None:
            result.reasons["placement.int8_share"] = (
                "the runtime does not tell which kernels are integer"
                if placement.integer is None
                else "the model has no quantizable operator"
            )

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

    def profile(self, result: CellResult) -> None:
        """Profile both sides at the smallest batch size, each in a session of its own."""
        batch_size = min(self.protocol.batch_sizes)
        found: list[dict[str, float]] = []
        for side in (self.candidate, self.baseline):
            if side is None:
                found.append({})
                continue
            with self.start(side, label="profile_") as worker:
                found.append(worker.profile(batch_size, _PROFILE_RUNS))
        ms, baseline_ms = found
        if not ms:
            result.reasons["profile"] = "this backend's sessions have no profiler"
            return
        placement = result.placement
        result.profile = Profile(
            batch_size=batch_size,
            ms=ms,
            baseline_ms=baseline_ms,
            explanation=explain(ms, baseline_ms, placement.int8_share, placement.float_reasons),
        )


def _int8_not_faster(result: CellResult) -> bool:
    """Whether integer kernels ran and one batch size did not gain from them."""
    return bool(result.placement.integer) and any(s.ratio < _FAST_ENOUGH for s in result.speedup)
