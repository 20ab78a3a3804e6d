"""Nothing that a worker starts outlives it, and its log does not grow without end (Linux).

A worker may start processes that start a session of their own, or lose their parent. So every
worker adopts the orphans below it (``PR_SET_CHILD_SUBREAPER``), as this process does the workers'
own; and beside each worker sits a guard, a small process that sleeps until worker or owner is gone.
If the owner is, however it died, the guard kills the worker with all that is below it; it needs
neither the worker's interpreter, which may hang in a library, nor a signal, which reaches one
process only. Once in a while it looks at the worker's log.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

LINUX = sys.platform.startswith("linux")
NAME = "pqbench-guard"
LOG_LIMIT = 8 * 2**20  # bytes; beyond it a log keeps its head and its tail
_KEPT = 2**20
_LOOK_S = 0.5
_ROUNDS, _ROUND_S = 40, 0.005
_SET_NAME, _SET_SUBREAPER = 15, 36
_HELPERS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def _prctl(option: int, value: object) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every process below this one that loses its own."""
    if LINUX:
        _prctl(_SET_SUBREAPER, 1)


def watch(owner: int) -> bool:
    """Start the guard of this process.

    Args:
        owner: The process without which this one shall not live.

    Returns:
        False where the system has no means for it.
    """
    if not LINUX:
        return False
    try:
        watched = [os.pidfd_open(owner), os.pidfd_open(os.getpid())]
    except ProcessLookupError:
        os._exit(1)  # the owner is gone already
    except OSError:  # an old kernel, or a container that forbids it
        return False
    me = os.getpid()
    first = os.fork()
    if first == 0:  # forks again: the guard is to be nobody's child whom os.wait() would find
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                _guard(me, *watched)
        os._exit(0)
    os.waitpid(first, 0)
    for descriptor in watched:
        os.close(descriptor)
    adopt_orphans()
    return True


def _guard(worker: int, owner_gone: int, worker_gone: int) -> None:
    """In the guard: sleep, look at the log, and in the end kill what is left."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(_SET_NAME, ctypes.c_char_p(NAME.encode()))
    log = _log()
    keep = {owner_gone, worker_gone, *(() if log is None else (log,))}
    _close_all_but(keep)
    waiting = select.poll()
    for descriptor in (owner_gone, worker_gone):
        waiting.register(descriptor, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in waiting.poll(_LOOK_S * 1e3)}
        if log is not None:
            with contextlib.suppress(OSError):
                shorten(log)
        if owner_gone in ready:
            kill_tree(worker)
        if ready:
            return


def _log() -> int | None:
    """The file of this process's output, opened to be read and cut; None if it is none."""
    try:
        if not stat.S_ISREG(os.fstat(1).st_mode):
            return None
        return os.open("/proc/self/fd/1", os.O_RDWR)
    except OSError:
        return None


def _close_all_but(keep: set[int]) -> None:
    """Pipes and locks of the worker are not held open by its guard."""
    low = 0
    for descriptor in [*sorted(keep), 2**16]:
        os.closerange(low, descriptor)
        low = descriptor + 1


def shorten(log: int, limit: int = LOG_LIMIT, kept: int = _KEPT) -> None:
    """Cut the middle out of a log that is longer than its limit, and say so there.

    Args:
        log: Descriptor of the file, to be read and written; whoever writes to it appends.
        limit: Longest log, in bytes.
        kept: What is kept of its head and of its tail, in bytes.
    """
    size = os.fstat(log).st_size
    if size <= limit:
        return
    tail = os.pread(log, kept, size - kept)
    note = f"\n[pqbench: {size - 2 * kept:,} bytes of this log were removed here]\n".encode()
    os.ftruncate(log, kept)
    os.pwrite(log, note + tail, kept)


def kill_tree(pid: int) -> None:
    """Kill a process and all that is below it, whatever sessions and groups they are in."""
    import psutil

    for _ in range(_ROUNDS):  # what is started meanwhile is found in the next round
        try:
            top = psutil.Process(pid)
            found = [*top.children(recursive=True), top]
        except psutil.NoSuchProcess:
            return
        alive = [p for p in found if _alive(p)]
        if not alive:
            return
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_ROUND_S)


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class Workers:
    """The workers that this process has now; what else is its child was left by one of them."""

    def __init__(self) -> None:
        self.now: set[int] = set()
        self._before: set[int] | None = None

    def began(self, pid: int) -> None:
        """Note a worker, just started."""
        self.now.add(pid)

    def prepare(self) -> None:
        """Call before a worker is started: from now on orphans come to this process."""
        import psutil

        if self._before is None and LINUX:
            self._before = {child.pid for child in psutil.Process().children()}
            adopt_orphans()

    def ended(self, pid: int) -> None:
        """Kill what a worker that has ended left behind."""
        import psutil

        self.now.discard(pid)
        if self._before is None:
            return
        for _ in range(_ROUNDS):
            known = self.now | self._before
            strays = [c for c in psutil.Process().children() if c.pid not in known]
            buried = [_bury(child) for child in strays]
            if not any(buried):
                return
            time.sleep(_ROUND_S)


def _bury(child: psutil.Process) -> bool:
    """Kill and reap a process that was left to this one; whether there was anything to do."""
    import psutil

    with contextlib.suppress(psutil.Error, ChildProcessError):
        if _alive(child):
            if child.name() == NAME or any(w in " ".join(child.cmdline()) for w in _HELPERS):
                return False
            kill_tree(child.pid)
        os.waitpid(child.pid, os.WNOHANG)
        return True
    return False


WORKERS = Workers()
