"""A session in a process of its own, and the parent's handle to it.

Requests and answers are JSON lines over two pipes of their own; what a runtime prints goes to a log
file. The parent sleeps in ``poll`` while the child works. Whatever happens to the child (an
exception, a signal, a time-out) is an error with a name in the parent, and no process is left
behind: the child ends when its pipe closes or its parent dies, and its process group is killed.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pqbench.core import interrupt
from pqbench.core.backend import Backend
from pqbench.core.errors import (
    ERRORS,
    ConfigError,
    OutOfMemoryFailure,
    PqbenchError,
    StageTimeout,
    WorkerCrash,
)
from pqbench.core.instantiate import make
from pqbench.machine.foreign_load import process_cpu_s
from pqbench.measure.side import Side
from pqbench.workers.child import (
    MEMORY_HINT,
    cell_timeout,
    child_environment,
    describe_error,
    die_with_parent,
    last_line,
    limit_memory,
    speaks_of_memory,
)
from pqbench.workers.forkserver import Forked, server
from pqbench.workers.guard import WORKERS, kill_tree

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from pqbench.measure.latency import Block

_CHUNK = 1 << 20
_EXIT_S = 5.0


class SessionWorker(Side):
    """A model loaded in a child process. Make it with :meth:`start`, use it in a ``with`` block.

    Attributes:
        name: Name for messages, ``candidate`` or ``baseline``.
        log: File with everything the child printed.
        pid: The child's process id.
        cold_answer: Cold times and the device, as measured while it started.
    """

    def __init__(
        self,
        process: Forked | subprocess.Popen[bytes],
        name: str,
        log: Path,
        timeout_s: float,
        to: int,
        of: int,
        deadline: float | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.pid = process.pid
        self.cold_answer: dict[str, Any] = {}
        self._process = process
        self._timeout_s = timeout_s
        self._deadline = math.inf if deadline is None else deadline
        self._to = to
        self._of = of
        self._buffer = b""
        self._closed = False

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

        A child that needs torch on the CPU is forked from the server that has imported it, where
        there is one; all others are fresh interpreters.

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
            worker._send(
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
            self.cold_answer = self._answer("open")
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
        answer: dict[str, Any] = self._ask("placement")
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

        answer = self._ask(
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
        count: int = self._ask(
            "predict",
            out=str(Path(out).absolute()),
            batch_size=batch_size,
            split=None if split is None else str(Path(split).absolute()),
        )
        return count

    def memory(self, batch_size: int, calls: int) -> dict[str, Any]:
        """Memory (``memory``, ``reasons``) since before the load, after some more calls."""
        answer: dict[str, Any] = self._ask("memory", batch_size=batch_size, calls=calls)
        return answer

    def profile(self, batch_size: int, runs: int) -> dict[str, float]:
        """Milliseconds per call by kernel type, largest first. Time nothing afterwards."""
        answer: dict[str, float] = self._ask("profile", batch_size=batch_size, runs=runs)
        return answer

    def _ask(self, call: str, **arguments: Any) -> Any:
        self._send(call, **arguments)
        return self._answer(call)

    def _send(self, call: str, **arguments: Any) -> None:
        line = json.dumps({"call": call, "arguments": arguments}).encode() + b"\n"
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._to, view) :]
        except BrokenPipeError:
            raise self._death(call) from None

    def _answer(self, call: str) -> Any:
        answer = json.loads(self._read_line(call))
        if "error" not in answer:
            return answer["value"]
        error = answer["error"]
        kind = ERRORS.get(error["type"])
        if kind is not None:
            raise self._located(kind(error["message"], hint=error["hint"]))
        failure = PqbenchError(
            f"{self.name}, {call}: {error['type']}: {error['message']}",
            hint=f"the traceback is in {self.log}",
        )
        failure.original = error["type"]
        raise self._located(failure)

    def _read_line(self, call: str) -> bytes:
        """Sleep until the child has answered.

        Raises:
            StageTimeout: It took too long; the child is killed.
            WorkerCrash: It died.
            OutOfMemoryFailure: It was killed, most likely for memory.
        """
        waiting = select.poll()
        waiting.register(self._of, select.POLLIN | select.POLLHUP)
        end = min(time.monotonic() + self._timeout_s, self._deadline)
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            left = end - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1e3):
                self.kill()
                if end == self._deadline:
                    raise self._located(cell_timeout(f"{self.name}, '{call}'"))
                raise self._located(
                    StageTimeout(
                        f"{self.name}: no answer to '{call}' within {self._timeout_s:g} s",
                        hint="raise protocol.stage_timeout_s, or use a smaller model or batch size",
                    )
                )
            chunk = os.read(self._of, _CHUNK)
            if not chunk:
                raise self._death(call)
            parts.append(chunk)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return line

    def _death(self, call: str) -> PqbenchError:
        """Why the child is no more."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        code = self._process.returncode
        interrupt.came(-(code or 0))
        self.kill()
        last = last_line(self.log)
        where = f"{self.name} died during '{call}'"
        if code is not None and code < 0:
            number = signal.Signals(-code)
            if number == signal.SIGKILL:
                return self._located(
                    OutOfMemoryFailure(
                        f"{where}: killed ({number.name}), as the system does when memory runs out",
                        hint=MEMORY_HINT,
                    )
                )
            message = f"{where} ({number.name})"
        else:
            message = f"{where} with exit code {code}"
        if speaks_of_memory(last):
            return self._located(OutOfMemoryFailure(f"{message}: {last}", hint=MEMORY_HINT))
        return self._located(WorkerCrash(message, hint=f"its last words: {last} ({self.log})"))

    def _located(self, error: PqbenchError) -> PqbenchError:
        error.log = self.log
        return error

    # -- end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let the child end by itself, then make sure that it and its children have."""
        if self._closed:
            return
        os.close(self._to)
        self._to = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        self.kill()

    def kill(self) -> None:
        """End the child and its children at once."""
        if self._closed:
            return
        self._closed = True
        if self._process.returncode is None:
            kill_tree(self.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # also before it has made a group of its own
        self._process.wait()
        WORKERS.ended(self.pid)
        for descriptor in (self._to, self._of):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


def runtime_of(backend: Mapping[str, Any]) -> tuple[Sequence[str], str]:
    """Modules and device of a backend; none where it cannot be made: the child says why."""
    try:
        runtime = make(backend, "backend", Backend)
    except ConfigError:
        return (), ""
    return tuple(runtime.modules), runtime.device


def forkable(modules: Sequence[str], device: str) -> bool:
    """Whether a session may be a fork of the server that has imported torch.

    Only where torch itself runs, on the CPU: then the import is what a start would cost, and the
    server has started no thread of torch's. A CUDA context does not survive a fork, and the other
    runtimes are imported in a quarter of a second.

    Args:
        modules: What the backend imports.
        device: What it runs on.
    """
    return "torch" in modules and device == "cpu"


def _fresh(
    requests: int, answers: int, log: Path, threads: int, modules: Sequence[str] | None
) -> subprocess.Popen[bytes]:
    """A child in a fresh interpreter; given the runtime's ``modules``, one that is weighed."""
    module = "pqbench.workers.session" if modules is None else "pqbench.workers.weigh"
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
        return Forked(context, _serve_forked, (incoming, outgoing), log, threads)


# -- the child -------------------------------------------------------------------------------------


def _serve_forked(incoming: Connection, outgoing: Connection) -> None:
    """In a fork of the server, which ends it with our parent."""
    requests, answers = os.dup(incoming.fileno()), os.dup(outgoing.fileno())
    incoming.close()
    outgoing.close()
    layout = _another_layout()
    serve(requests, answers)
    del layout


def _another_layout() -> tuple[mmap.mmap, bytearray]:
    """Shift where memory is found from now on, as address randomization does for a fresh process.

    All forks of a server begin with the same layout, and what it does to caches would look like a
    property of the program (Curtsinger and Berger, "Stabilizer", ASPLOS 2013). The pages are never
    touched, so they cost no memory.
    """
    draw = int.from_bytes(os.urandom(4), "little")
    pages, heap = 1 + draw % 65536, 16 * (1 + (draw >> 16) % 4096)
    return mmap.mmap(-1, pages * mmap.PAGESIZE), bytearray(heap)


def serve(
    requests: int, answers: int, bare_mb: float | None = None, import_s: float | None = None
) -> None:
    """Answer requests until the pipe closes.

    Args:
        requests: Descriptor to read from.
        answers: Descriptor to write to.
        bare_mb: Resident memory in MiB of an interpreter with numpy and the runtime alone, where
            this process is weighed.
        import_s: Seconds that importing the runtime took, where that is done already.
    """
    from pqbench.measure.denormals import flush_denormals

    flushed = flush_denormals()  # before numpy and the runtimes start threads: they inherit it
    from pqbench.measure.session_host import Host, open_host

    host: Host | None = None
    with os.fdopen(requests, "rb") as incoming, os.fdopen(answers, "wb") as outgoing:
        for line in incoming:
            request = json.loads(line)
            answer: dict[str, Any]
            try:
                if request["call"] == "open":
                    host = open_host(
                        **request["arguments"], flushed=flushed, bare_mb=bare_mb, import_s=import_s
                    )
                    value = host.cold()
                else:
                    value = getattr(host, request["call"])(**request["arguments"])
                answer = {"value": value}
            except Exception as error:  # the boundary of the process: reported, never hidden
                traceback.print_exc()
                answer = {"error": describe_error(error)}
            outgoing.write(json.dumps(answer).encode() + b"\n")
            outgoing.flush()
        if host is not None:
            host.close()


def main(
    requests: int,
    answers: int,
    parent: int,
    bare_mb: float | None = None,
    import_s: float | None = None,
) -> None:
    """Run the child; see :func:`serve`."""
    die_with_parent(parent)
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)
    serve(requests, answers, bare_mb, import_s)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
