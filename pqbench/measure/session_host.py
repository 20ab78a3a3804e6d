"""The inside of a session process: load a model once, then time, score, weigh and profile it."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact
from pqbench.core.backend import Backend, Session
from pqbench.core.errors import ConfigError, PqbenchError, UnavailableError, UnsupportedError
from pqbench.core.instantiate import make, public_name
from pqbench.core.record import Cold
from pqbench.core.split import PreparedSplit, ahead
from pqbench.machine.cpu import usable_cores
from pqbench.machine.foreign_load import waited_s
from pqbench.measure import recompile
from pqbench.measure.latency import time_calls
from pqbench.measure.memory import MemoryWatch, resident, trim_heap
from pqbench.measure.outputs import has_raw_outputs, raw_outputs
from pqbench.measure.pool import Batch, make_pool, views

# Calls without copies: for so long, at least so many (the first half of these warms up).
_WITHOUT_COPIES_S, _WITHOUT_COPIES_CALLS = 0.25, 20


@dataclass
class Host:
    """One loaded model with its inputs. Every public method answers one request of the parent."""

    session: Session
    split: PreparedSplit
    pool: Batch
    device: str
    watch: MemoryWatch
    cold_times: Cold
    cold_reasons: dict[str, str]
    flushed: bool
    spare_core: bool = True
    batch_sizes: Sequence[int] = ()
    tensors: tuple[str, ...] = ()  # names of the outputs, where all are kept as they are
    batches: dict[int, list[Batch]] = field(default_factory=dict)
    turn: int = 0

    def _views(self, batch_size: int) -> list[Batch]:
        if batch_size not in self.batches:
            self.batches[batch_size] = views(self.pool, batch_size)
        return self.batches[batch_size]

    def cold(self) -> dict[str, Any]:
        """Cold times, and why one is null."""
        return {
            "cold": dataclasses.asdict(self.cold_times),
            "reasons": self.cold_reasons,
            "device": self.device,
            "denormals_flushed": self.flushed,
        }

    def placement(self) -> dict[str, Any]:
        """Where the nodes run, read back from the runtime; on a GPU, calls without copies, too."""
        placement = self.session.placement()
        found = {**dataclasses.asdict(placement), "int8_share": placement.int8_share}
        without = {str(n): ms for n in self.batch_sizes if (ms := self._without_copies_ms(n))}
        if without:
            found["details"] = {**found["details"], "without_copies_ms": without}
        return found

    def _without_copies_ms(self, batch_size: int) -> float | None:
        """Median ms of a call whose inputs and outputs stay on the device; None: there is none."""
        call = self.session.device_call(self._views(batch_size)[0])
        if call is None:
            return None
        ms: list[float] = []
        end = time.perf_counter() + _WITHOUT_COPIES_S
        while len(ms) < _WITHOUT_COPIES_CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            ms.append((time.perf_counter() - start) * 1e3)
        return float(np.median(ms[_WITHOUT_COPIES_CALLS // 2 :]))

    def block(
        self, batch_size: int, seconds: float, min_calls: int, max_calls: int, lead_s: float
    ) -> dict[str, Any]:
        """Time calls back to back."""
        batches = self._views(batch_size)
        gc.collect()
        before, waited, faults = recompile.compilations(), waited_s(), page_faults()
        timed = time_calls(
            self.session.run, batches, seconds, min_calls, max_calls, lead_s, self.turn
        )
        faults, after = page_faults() - faults, waited_s()
        self.turn += len(timed.ns)
        return {
            "ns": timed.ns.tolist(),
            "cpu_s": timed.cpu_s,
            "wall_s": timed.wall_s,
            "compiled": recompile.compilations() - before,
            "waited_s": None if waited is None or after is None else max(after - waited, 0.0),
            "faults": faults,
        }

    def predict(self, out: str, batch_size: int, split: str | None = None) -> int:
        """Score a whole split; the last batch is filled up so that every call has one shape."""
        scored = self.split if split is None else PreparedSplit.load(split)
        array: npt.NDArray[Any] | None = None
        count = 0
        # Without a core to spare the images are made ready between two calls, by all cores.
        batches = scored.batches(batch_size, threads=1 if self.spare_core else usable_cores())
        for batch in ahead(batches) if self.spare_core else batches:
            size = len(next(iter(batch.values())))
            if size < batch_size:
                batch = {
                    name: np.resize(a, (batch_size, *a.shape[1:])) for name, a in batch.items()
                }
            outputs = self.session.run(batch)
            if self.tensors:
                logits = raw_outputs(outputs, size, self.tensors, Path(out))
            else:
                logits = dense_classes(np.asarray(outputs[0])[:size])
            if array is None:
                shape = (scored.count, *logits.shape[1:])
                dtype = np.float32 if logits.ndim < 3 else np.int16
                array = np.lib.format.open_memmap(out, mode="w+", dtype=dtype, shape=shape)
            array[count : count + size] = logits
            count += size
        if array is not None:
            array.flush()  # type: ignore[attr-defined]  # a memory map
        return count

    def memory(self, batch_size: int, calls: int) -> dict[str, Any]:
        """Run some calls and read the high-water mark."""
        batches = self._views(batch_size)
        for i in range(calls):
            self.session.run(batches[i % len(batches)])
        memory, reasons = self.watch.result()
        return {"memory": dataclasses.asdict(memory), "reasons": reasons}

    def profile(self, batch_size: int, runs: int) -> dict[str, float]:
        """Milliseconds per call by kernel type, largest first."""
        found = self.session.profile(self._views(batch_size)[0], runs)
        return {k: float(v) for k, v in sorted(found.items(), key=lambda item: -item[1])}

    def kernels(self, batch_size: int, runs: int) -> dict[str, Any] | None:
        """Times kernel by kernel; None where the runtime does not tell."""
        found = self.session.kernels(self._views(batch_size)[0], runs)
        return None if found is None else dataclasses.asdict(found)

    def close(self) -> None:
        """Free the model."""
        self.session.close()


def page_faults() -> int:
    """Page faults of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def dense_classes(outputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Scores of dense prediction (n, C, H, W) as classes (n, H, W); other outputs as they are.

    The scores of every pixel would take gigabytes, and nothing but the highest is used.

    Raises:
        PqbenchError: Dense scores are not finite.
    """
    if outputs.ndim < 4:
        return outputs
    if not np.isfinite(outputs).all():
        raise PqbenchError(
            "the model gives infinities or not-a-number",
            hint="a 16-bit or integer range was exceeded: try another precision or calibration",
        )
    classes: npt.NDArray[np.int16] = outputs.argmax(axis=1).astype(np.int16)
    return classes


def open_host(
    backend: Mapping[str, Any],
    artifact: str,
    split: str,
    batch_sizes: Sequence[int],
    pool_mb: float,
    seed: int,
    flushed: bool,
    bare_mb: float | None = None,
    import_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Host:
    """Load the inputs, the runtime and the model, in this order, timing and weighing each.

    Args:
        backend: Resolved configuration node of the backend.
        artifact: Folder of the model.
        split: Folder of the prepared split.
        batch_sizes: Samples per call that will be asked for; the first call uses the first.
        pool_mb: Memory for the pool of inputs, in MiB.
        seed: Seeds the choice of inputs.
        flushed: Whether subnormal floats are flushed to zero.
        bare_mb: Resident memory in MiB of an interpreter with numpy and the runtime alone, where
            the process is weighed: what it holds beyond that and its inputs is pqbench's own.
        import_s: Seconds that importing the runtime took, where that is done already.
        clock: Seconds.

    Raises:
        UnavailableError: The backend cannot run here.
        UnsupportedError: The artifact is not in the representation that the backend loads.
        ConfigError: The backend cannot be made, or what it loads is no session.
    """
    model = Artifact.load(artifact)
    data = PreparedSplit.load(split)
    runtime = make(backend, "backend", Backend)
    if model.representation not in runtime.loads:
        name = runtime.name or type(runtime).__name__
        raise UnsupportedError(
            f"{name} loads '{' or '.join(runtime.loads)}' models, this one is "
            f"'{model.representation}' ({model.folder})",
            hint="export the model to that representation first",
        )
    pool = make_pool(data, max(batch_sizes), pool_mb, seed)
    # What availability() and the watch will import is not the runtime's either.
    import psutil  # noqa: F401

    metadata.version("numpy")
    harness = None
    if bare_mb is not None:
        inputs = sum(array.nbytes for array in pool.values())  # a deployment has them, too
        trim_heap()  # what is free will be the runtime's: it is not pqbench's
        harness = (resident().now - inputs) / 2**20 - bare_mb
    start = clock()
    available = runtime.availability()
    if not available.available:
        raise UnavailableError(available.reason, hint=available.hint)
    # What a backend names here is imported before the load, so that the runtime counts neither as
    # time nor as memory of the model; nor do the modules that define a network.
    for module in runtime.modules:
        importlib.import_module(module)
    if import_s is None:
        import_s = clock() - start
    for module in runtime.imports(model):
        importlib.import_module(module)
    watch = MemoryWatch(available.device, harness_mb=harness, batch_size=batch_sizes[0])
    gc.collect()
    watch.before_load()
    start = clock()
    session = runtime.load(model, list(batch_sizes))
    load_s = clock() - start
    _check_session(session, runtime)
    watch.after_load()
    first = views(pool, batch_sizes[0])[0]
    start = clock()
    session.run(first)
    first_ms = (clock() - start) * 1e3
    reasons = {}
    if session.compile_s is None:
        reasons["cold.compile_s"] = session.compile_reason
    else:
        load_s -= session.compile_s
    gc.collect()
    gc.freeze()
    return Host(
        session=session,
        split=data,
        batch_sizes=list(batch_sizes),
        tensors=model.outputs if has_raw_outputs(model) else (),
        pool=pool,
        device=available.device,
        watch=watch,
        cold_times=Cold(import_s, load_s, session.compile_s, first_ms),
        cold_reasons=reasons,
        flushed=flushed,
        # A thread that reads ahead takes a core from a runtime that computes on all of them.
        spare_core=available.device != "cpu" or usable_cores() > runtime.threads,
    )


def _check_session(session: object, backend: Backend) -> None:
    """Refuse what a user's backend gives instead of a session: its members have no defaults."""
    if not isinstance(session, Session):
        wanted, given = public_name(Session), type(session).__name__
        raise ConfigError(
            f"{type(backend).__name__}.load gave a {given}, which does not inherit from {wanted}",
            hint=f"write class {given}({wanted})",
        )
