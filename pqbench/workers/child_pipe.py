"""A child process that answers requests over a pipe, and every way in which it may not."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from pqbench.core import interrupt
from pqbench.core.errors import (
    ERRORS,
    OutOfMemoryFailure,
    PqbenchError,
    StageTimeout,
    WorkerCrash,
)
from pqbench.workers.child import MEMORY_HINT, cell_timeout, last_line, speaks_of_memory
from pqbench.workers.forkserver import Forked
from pqbench.workers.guard import WORKERS, kill_tree

_CHUNK = 1 << 20
_EXIT_S = 5.0


class ChildPipe:
    """One line of JSON is a request, one line its answer. Use it in a ``with`` block.

    Args:
        process: The child.
        name: Name for messages.
        log: File with everything the child prints.
        timeout_s: Longest time for one answer, in s.
        to: Descriptor to write requests to.
        of: Descriptor to read answers from.
        deadline: When all must be done, on :func:`time.monotonic`'s clock; None: no limit.
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
        self._process = process
        self._timeout_s = timeout_s
        self._deadline = math.inf if deadline is None else deadline
        self._to = to
        self._of = of
        self._buffer = b""
        self._closed = False

    def ask(self, call: str, **arguments: Any) -> Any:
        """Send a request and wait for its answer; see :meth:`answer`."""
        self.send(call, **arguments)
        return self.answer(call)

    def send(self, call: str, **arguments: Any) -> None:
        """Send a request.

        Raises:
            PqbenchError: The child is no more; the class says why.
        """
        line = json.dumps({"call": call, "arguments": arguments}).encode() + b"\n"
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._to, view) :]
        except BrokenPipeError:
            raise self._death(call) from None

    def answer(self, call: str) -> Any:
        """Wait for the answer to the last request.

        Raises:
            PqbenchError: The child said so, took too long or died; the class says which.
        """
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

    def leave(self) -> None:
        """Let the child end by itself, without waiting for it; :meth:`close` does."""
        if self._to >= 0:
            os.close(self._to)
            self._to = -1

    def close(self) -> None:
        """Let the child end by itself, then make sure that it and its children have."""
        if self._closed:
            return
        self.leave()
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
