"""How much of the CPU others took in a stretch of time: other processes, and the hypervisor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

# The kernel counts idle time in ticks of 10 ms; below this much time a share means nothing.
MIN_SECONDS = 0.1


@dataclass(frozen=True)
class CpuSample:
    """Counters at one moment.

    Attributes:
        wall_s: Monotonic clock in s.
        idle_s: Idle time (waiting for disks included) of the usable CPUs together, in s.
        steal_s: Time in which the hypervisor ran others on them, in s.
        own_s: CPU time used so far by our own processes, in s.
        cpus: Usable CPUs.
    """

    wall_s: float
    idle_s: float
    steal_s: float
    own_s: float
    cpus: int


@dataclass(frozen=True)
class Share:
    """What others took.

    Attributes:
        foreign: Share of the usable CPUs, 0..1, taken by others; the hypervisor's included.
        steal: The hypervisor's part of it.
    """

    foreign: float
    steal: float


def process_cpu_s(pid: int) -> float:
    """CPU time of a process so far, all its threads, in s; 0 if it is gone.

    Read from the process's CPU clock, exact to the nanosecond (``clock_getcpuclockid`` makes the
    same identifier), where ``/proc/<pid>/stat`` counts in steps of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def waited_s(pid: int | None = None, proc: Path = Path("/proc")) -> float | None:
    """Time that a process's threads were ready to run but had no CPU, since they began, in s.

    The second figure of ``/proc/<pid>/task/<tid>/schedstat``, exact where shares of idle time come
    in steps of 10 ms.

    Args:
        pid: The process; None: this one.
        proc: Where the kernel shows processes.

    Returns:
        All threads together; None where the kernel does not tell.
    """
    process = proc / str(pid or os.getpid())
    if not (process / "schedstat").is_file():
        return None
    total = 0
    for task in (process / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            total += int((task / "schedstat").read_text(encoding="ascii").split()[1])
    return total / 1e9


def descendants(pid: int) -> set[int]:
    """Process ids of a process's children, grandchildren and so on."""
    import psutil

    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return set()


def read_proc_stat(cpus: Collection[int], path: Path = Path("/proc/stat")) -> tuple[float, float]:
    """Idle and stolen time of the given CPUs since boot, in s.

    Raises:
        OSError: There is no such file.
    """
    tick = os.sysconf("SC_CLK_TCK")
    idle = steal = 0
    for line in path.read_text(encoding="ascii").splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            fields = [int(v) for v in values]
            idle += fields[3] + fields[4]
            steal += fields[7] if len(fields) > 7 else 0
    return idle / tick, steal / tick


def share_between(before: CpuSample, after: CpuSample) -> Share:
    """What others took between two moments: the time that was neither idle nor our own."""
    total = (after.wall_s - before.wall_s) * after.cpus
    if total <= 0:
        return Share(0.0, 0.0)
    own = max(after.own_s - before.own_s, 0.0)
    idle = after.idle_s - before.idle_s
    steal = max(after.steal_s - before.steal_s, 0.0) / total
    return Share(min(max((total - idle - own) / total, steal, 0.0), 1.0), min(steal, 1.0))


class ForeignLoad:
    """Reads what others took of the CPUs this process may use.

    Args:
        pids: Our own processes beside this one; their children are counted too.
        reader: Gives a sample, or None where the system does not tell; replaced in tests.
    """

    def __init__(
        self, pids: Iterable[int] = (), reader: Callable[[], CpuSample | None] | None = None
    ) -> None:
        own = {os.getpid(), *pids}
        for pid in pids:
            own |= descendants(pid)
        self._pids = frozenset(own)
        self._cpus: frozenset[int] = frozenset()
        self.reason = ""
        self._reader = reader or self._read
        if reader is None:
            try:
                self._cpus = frozenset(os.sched_getaffinity(0))
                read_proc_stat(self._cpus)
            except (OSError, AttributeError) as error:
                self.reason = f"this system does not tell the CPU load of others ({error})"

    def _read(self) -> CpuSample | None:
        if self.reason:
            return None
        idle, steal = read_proc_stat(self._cpus)
        own = sum(process_cpu_s(pid) for pid in self._pids)
        return CpuSample(time.monotonic(), idle, steal, own, len(self._cpus))

    def sample(self) -> CpuSample | None:
        """Counters now, or None where the system does not tell (``reason`` says why)."""
        return self._reader()

    def since(self, before: CpuSample | None) -> Share | None:
        """What others took since an earlier sample; None if unknown or too short to tell."""
        after = self.sample()
        if before is None or after is None or after.wall_s - before.wall_s < MIN_SECONDS:
            return None
        return share_between(before, after)
