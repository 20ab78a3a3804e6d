"""Child processes that need not import torch anew: forked from a server that has.

Importing torch and torchvision takes 3 to 8 s, and a cell has half a dozen stages. So the first
stage starts Python's own fork server (``multiprocessing``, start method ``forkserver``) with both
preloaded, and every stage is a fork of it: a process of its own, with its own process group, output
and limits, that can crash alone. Where the system has no fork server, or the number of threads has
changed since it was started, the caller starts a fresh interpreter instead.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import PqbenchError, WorkerCrash
from pqbench.machine.device_lock import lock_folder, private
from pqbench.workers.child import child_environment
from pqbench.workers.guard import watch

if TYPE_CHECKING:  # there is none on Windows
    from multiprocessing.context import ForkServerContext, ForkServerProcess

# None of these starts a thread: a fork would have the locks that threads hold, not the threads.
PRELOAD = (
    "torch",
    "torchvision",
    "safetensors.torch",
    "hydra.utils",
    "numpy.ma",
    "psutil",
    "pqbench.workers.session",
    "pqbench.workers.session_child",
    "pqbench.measure.session_host",
    "pqbench.backends.torch.backend",
    "pqbench.backends.ort.backend",
    "pqbench.backends.openvino.backend",
    "pqbench.workers.preloaded",  # the last one
)
_LONGEST = 108 - len("/listener-12345678") - 1
_SHORT = ("/tmp", "/var/tmp")


@dataclass
class _Server:
    """The fork server of this process; its threads are settled when it imports torch."""

    context: ForkServerContext | None = None
    threads: int = 0


_SERVER = _Server()


def server(threads: int) -> ForkServerContext | None:
    """The fork server, started at the first call; None if it cannot serve this many threads.

    Args:
        threads: Threads that the libraries in the child may use.
    """
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return None
    if (multiprocessing.get_start_method(allow_none=True) or "forkserver") not in methods:
        return None  # a worker of joblib's: a child would be told its method, "loky", and refuse
    from multiprocessing import forkserver, resource_tracker

    if not _short_address():
        return None
    if _SERVER.context is None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        _SERVER.context, _SERVER.threads = context, threads
    if threads != _SERVER.threads:
        return None
    resource_tracker.ensure_running()  # it would unblock the signal when it starts
    with _environment(child_environment(threads)), _deaf_to_interrupts():
        forkserver.ensure_running()  # also anew, should it have been killed
    return _SERVER.context


def wait_until_idle() -> None:
    """Sleep until the server, if there is one, has imported all: nothing may run beside timing."""
    if _SERVER.context is not None:
        process = _SERVER.context.Process(target=_nothing)
        process.start()
        process.join()


def _nothing() -> None:
    """What a fork does that only proves that the server answers."""


def _short_address() -> bool:
    """Have the server's socket in a short path: a system takes some 100 bytes of it.

    Its folder bears this process's number, so what a killed one left is removed by the next.
    """
    from multiprocessing import process, util

    settings: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    if settings.get("tempdir") is not None:
        return True
    bases = (lock_folder(), *(Path(base) / lock_folder().name for base in _SHORT))
    for base in bases:
        folder = base / f"fork-{os.getpid()}"
        if len(os.fsencode(folder)) > _LONGEST:
            continue
        try:
            private(base)
            _remove_left(base)
            folder.mkdir(mode=0o700, exist_ok=True)
        except (OSError, PqbenchError):
            continue
        make: Any = util.Finalize
        make(None, _remove, args=(str(folder), os.getpid()), exitpriority=-100)
        settings["tempdir"] = str(folder)
        return True
    return False


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork inherits the finalizer
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(base: Path) -> None:
    import psutil

    for left in base.glob("fork-*"):
        number = left.name.removeprefix("fork-")
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """For a child that is started meanwhile: a terminal's Ctrl-C is for this process alone.

    Python's server ignores it too, but only after it has imported what it preloads.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """This process's environment variables replaced, for a child that is started meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Handed:
    """Open files among the arguments of a call in a fork: there, a mapping of what it has got.

    Args:
        files: Descriptors in this process, by any name.
    """

    def __init__(self, files: Mapping[str, int]) -> None:
        self.files = files

    def __reduce__(self) -> tuple[Callable[..., dict[str, int]], tuple[dict[str, Any]]]:
        from multiprocessing import reduction

        return _received, ({name: reduction.DupFd(file) for name, file in self.files.items()},)


def _received(files: Mapping[str, Any]) -> dict[str, int]:
    return {name: file.detach() for name, file in files.items()}


class Forked:
    """A call in a fork of the server; waits and ends like :class:`subprocess.Popen`.

    Args:
        context: The server.
        call: What runs in the child: an importable function.
        arguments: Its arguments; picklable.
        log: File for what the child prints; added to.
        threads: For the child's environment.

    Attributes:
        pid: The child's process id.

    Raises:
        WorkerCrash: The server is no more.
    """

    def __init__(
        self,
        context: ForkServerContext,
        call: Callable[..., None],
        arguments: tuple[Any, ...],
        log: Path,
        threads: int,
    ) -> None:
        environment = child_environment(threads)
        self._process: ForkServerProcess = context.Process(
            target=_enter, args=(call, arguments, str(log), environment)
        )
        try:
            self._process.start()
        except (EOFError, OSError) as error:
            raise WorkerCrash(
                f"the server that starts workers has ended, or could not begin ({error})",
                hint="does `python -c 'import torch'` work here, and is there memory? The same "
                "command goes on",
            ) from error
        assert self._process.pid is not None  # it has started
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until it has ended.

        Raises:
            subprocess.TimeoutExpired: It still runs after ``timeout`` s.
        """
        self._process.join(timeout)
        if timeout is not None and self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)

    def kill(self) -> None:
        """End it at once; its process group is the caller's to end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _enter(
    call: Callable[..., None],
    arguments: tuple[Any, ...],
    log: str,
    environment: dict[str, str],
) -> None:
    """In the child: a process group and output of its own, then the call."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None  # this is a child
    if not watch(parent.pid):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    call(*arguments)


def _end_with_parent() -> None:
    """Sleep until the process that asked for this one is gone, then end its whole group.

    The server outlives its owner while it has children, so its own death would come too late.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
