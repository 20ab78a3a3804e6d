"""A session in a process of its own, and the parent's handle to it.

Requests and answers are JSON lines over two pipes of their own; what a runtime prints goes to a log
file. The parent sleeps in ``poll`` while the child works. Whatever happens to the child (an
exception, a signal, a time-out) is an error with a name in the parent, and no process is left
behind: the child ends when its pipe closes or its parent dies, and its process group is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pqbench.core.backend import Backend, KernelProfile
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.machine.foreign_load import process_cpu_s
from pqbench.measure.side import Side
from pqbench.workers.child import child_environment, limit_memory
from pqbench.workers.child_pipe import ChildPipe
from pqbench.workers.forkserver import Forked, server
from pqbench.workers.guard import WORKERS
from pqbench.workers.session_child import serve_forked

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from pqbench.measure.latency import Block


class SessionWorker(ChildPipe, Side):
    """A model loaded in a child process. Make it with :meth:`start`, use it in a ``with`` block.

    Attributes:
        name: Name for messages, ``candidate`` or ``baseline``.
        log: File with everything the child printed.
        pid: The child's process id.
        cold_answer: Cold times and the device, as measured while it started.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cold_answer: dict[str, Any] = {}

    @classmethod
    def start(cls, *arguments: Any, **options: Any) -> Self:
        """Start a child and load a model in it: :meth:`launch`, then :meth:`opened`.

        Raises:
            PqbenchError: The model could not be loaded; the class says why.
        """
        worker = cls.launch(*arguments, **options)
        worker.opened()
        return worker

    @classmethod
    def launch(
        cls,
        backend: Mapping[str, Any],
        artifact: Path,
        split: Path,
        batch_sizes: Sequence[int],
        threads: int,
        log: Path,
        timeout_s: float,
        name: str = "session",
        pool_mb: float = 128.0,
        seed: int = 0,
        memory_mb: float | None = None,
        deadline: float | None = None,
        weighed: bool = False,
    ) -> Self:
        """Start a child and ask it to load a model; :meth:`opened` waits for it.

        A child that runs on the CPU is forked from the server that has imported torch, where there
        is one; all others are fresh interpreters, and so is one that is weighed.

        Args:
            backend: Resolved configuration node: ``_target_`` and the options of the backend.
            artifact: Folder of the model.
            split: Folder of the prepared split that gives the inputs.
            batch_sizes: Samples per call that will be asked for.
            threads: Threads of every library in the child.
            log: File for what the child prints; added to if it exists.
            timeout_s: Longest time for one answer, loading included, in s.
            name: Name for messages.
            pool_mb: Memory for the pool of inputs in MiB.
            seed: Seeds the choice of inputs.
            memory_mb: Limit of the child's own data in MiB; None: no limit.
            deadline: When the whole experiment must be done, on :func:`time.monotonic`'s clock.
            weighed: The child is there to be weighed: a fresh interpreter, which keeps account of
                what in it is pqbench's own.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        modules, device = runtime_of(backend)
        WORKERS.prepare()
        # What a forked child holds of its server is not told apart from its own.
        fork = not weighed and memory_mb is None and forkable(modules, device)
        context = server(threads) if fork else None
        child_in, to = os.pipe()
        of, child_out = os.pipe()
        process: Forked | subprocess.Popen[bytes]
        try:
            if context is not None:
                process = _forked(context, child_in, child_out, log, threads)
            else:
                process = _fresh(child_in, child_out, log, threads, modules if weighed else None)
        except BaseException:
            os.close(to)
            os.close(of)
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        WORKERS.began(process.pid)
        limit_memory(process.pid, memory_mb)
        worker = cls(process, name, log, timeout_s, to, of, deadline)
        try:
            worker.send(
                "open",
                backend=dict(backend),
                artifact=str(Path(artifact).absolute()),
                split=str(Path(split).absolute()),
                batch_sizes=list(batch_sizes),
                pool_mb=pool_mb,
                seed=seed,
            )
        except BaseException:
            worker.kill()
            raise
        return worker

    def opened(self) -> Self:
        """Wait until the model is loaded.

        Raises:
            PqbenchError: It could not be; the class says why. The child has been ended.
        """
        try:
            self.cold_answer = self.answer("open")
        except BaseException:
            self.kill()
            raise
        return self

    # -- requests ----------------------------------------------------------------------------------

    def cold(self) -> dict[str, Any]:
        """Cold times (``cold``, ``reasons``), ``device``, and ``denormals_flushed``."""
        return self.cold_answer

    def placement(self) -> dict[str, Any]:
        """Where and in what precision the model runs: the fields of the record's placement."""
        answer: dict[str, Any] = self.ask("placement")
        return answer

    def block(
        self,
        batch_size: int,
        seconds: float,
        min_calls: int = 1,
        max_calls: int = 1_000_000,
        lead_s: float = 0.0,
    ) -> Block:
        """Time calls back to back; see :func:`pqbench.measure.latency.time_calls`."""
        import numpy as np

        from pqbench.measure.latency import Block

        answer = self.ask(
            "block",
            batch_size=batch_size,
            seconds=seconds,
            min_calls=min_calls,
            max_calls=max_calls,
            lead_s=lead_s,
        )
        ns = np.asarray(answer["ns"], np.int64)
        return Block(
            ns,
            answer["cpu_s"],
            answer["wall_s"],
            answer["compiled"],
            answer["waited_s"],
            answer["faults"],
        )

    def cpu_s(self) -> float:
        """CPU time of the child so far, all its threads, in s; 0 if it is gone."""
        return process_cpu_s(self.pid)

    def predict(self, out: Path, batch_size: int, split: Path | None = None) -> int:
        """Score a whole split through this session into a float32 .npy; gives the count.

        Args:
            out: File to write, (count, ...) of the first output.
            batch_size: Samples per call.
            split: Folder of the prepared split; None takes the one the session was started with.
        """
        count: int = self.ask(
            "predict",
            out=str(Path(out).absolute()),
            batch_size=batch_size,
            split=None if split is None else str(Path(split).absolute()),
        )
        return count

    def memory(self, batch_size: int, calls: int) -> dict[str, Any]:
        """Memory (``memory``, ``reasons``) since before the load, after some more calls."""
        answer: dict[str, Any] = self.ask("memory", batch_size=batch_size, calls=calls)
        return answer

    def profile(self, batch_size: int, runs: int) -> dict[str, float]:
        """Milliseconds per call by kernel type, largest first. Time nothing afterwards."""
        answer: dict[str, float] = self.ask("profile", batch_size=batch_size, runs=runs)
        return answer

    def kernels(self, batch_size: int, runs: int) -> KernelProfile | None:
        """Times kernel by kernel; None where the runtime does not tell. Time nothing afterwards."""
        answer = self.ask("kernels", batch_size=batch_size, runs=runs)
        return None if answer is None else KernelProfile.from_plain(answer)


def runtime_of(backend: Mapping[str, Any]) -> tuple[Sequence[str], str]:
    """Modules and device of a backend; none where it cannot be made: the child says why."""
    try:
        runtime = make(backend, "backend", Backend)
    except ConfigError:
        return (), ""
    return tuple(runtime.modules), runtime.device


def forkable(modules: Sequence[str], device: str) -> bool:
    """Whether a session may be a fork of the server that has imported torch.

    On the CPU alone: a CUDA context does not survive a fork. The fork imports its own runtime where
    that is not torch; what it saves is the interpreter's start, NumPy and pqbench, 0.25 to 0.35 s
    of each start. Forked and fresh sessions are equally fast: their ratio, eight starts of each in
    turns on two cores of an AMD EPYC, was 1.003 +- 0.007 and 1.002 +- 0.009 (ONNX Runtime, calls of
    11 and 86 us), 1.006 +- 0.009 and 0.987 +- 0.027 (OpenVINO).

    Args:
        modules: What the backend imports.
        device: What it runs on.
    """
    return bool(modules) and device == "cpu"


def _fresh(
    requests: int, answers: int, log: Path, threads: int, modules: Sequence[str] | None
) -> subprocess.Popen[bytes]:
    """A child in a fresh interpreter; given the runtime's ``modules``, one that is weighed."""
    module = "pqbench.workers.session_child" if modules is None else "pqbench.workers.weigh"
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", module),
                *(str(requests), str(answers), str(os.getpid())),
                *(modules or ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(threads),
            pass_fds=(requests, answers),
            start_new_session=True,
        )


def _forked(
    context: ForkServerContext, requests: int, answers: int, log: Path, threads: int
) -> Forked:
    """A child that is a fork of the server."""
    with (
        Connection(os.dup(requests), writable=False) as incoming,
        Connection(os.dup(answers), readable=False) as outgoing,
    ):
        return Forked(context, serve_forked, (incoming, outgoing), log, threads)
