"""Memory of a session's process: the kernel's high-water mark, and the GPU driver's figure.

The high-water mark (``VmHWM``) is kept by the kernel, so no peak between two samples is missed and
nothing runs beside the session to take samples. Writing 5 to ``/proc/self/clear_refs`` resets it
(``proc_pid_clear_refs(5)``).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.core.record import Memory

_MB = 2**20


@dataclass(frozen=True)
class Resident:
    """Resident memory of a process and its children, in bytes.

    Attributes:
        now: Resident at this moment.
        peak: Highest since the last reset; None where it cannot be reset.
        children: Number of children that are included.
        workers: Number of compile workers that are not: they end with the compiling.
    """

    now: int
    peak: int | None
    children: int = 0
    workers: int = 0


def reset_peak() -> bool:
    """Set this process's high-water mark back to what is resident now; True if that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(pid: int) -> dict[str, int]:
    """``VmRSS`` and ``VmHWM`` of a process in bytes; empty if it is gone or there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def resident() -> Resident:
    """Resident memory of this process and its children.

    The children's peaks are added up, an upper bound if they did not peak together.
    """
    import psutil

    own = psutil.Process()
    found = own.children(recursive=True)
    children = [child for child in found if not _compiles(child.pid)]
    workers = len(found) - len(children)
    status = _status(own.pid)
    if "VmHWM" not in status:
        return Resident(own.memory_info().rss, None, len(children), workers)
    others = [_status(child.pid) for child in children]
    return Resident(
        status["VmRSS"] + sum(s.get("VmRSS", 0) for s in others),
        status["VmHWM"] + sum(s.get("VmHWM", 0) for s in others),
        len(children),
        workers,
    )


def _compiles(pid: int) -> bool:
    """Whether a process is one of ``torch.compile``'s pool of compilers, or a fork of one."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"torch/_inductor/compile_worker" in command


def trim_heap() -> None:
    """Collect garbage and give free heap back to the system, where the C library can (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def lifetime_peak() -> int:
    """Highest resident memory since this process began, in bytes (where it cannot be reset)."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass
class MemoryWatch:
    """Splits a session's memory into runtime, model and working share.

    Call :meth:`before_load`, :meth:`after_load` and, after some calls, :meth:`result`.

    Attributes:
        device: ``cpu`` or ``cuda:<index>``.
        harness_mb: What in this process is pqbench's own, in MiB; it is taken off. None: unknown,
            and nothing is.
        batch_size: Samples per call.
        reasons: Why a figure is null, by the name of the field.
    """

    device: str = "cpu"
    harness_mb: float | None = None
    batch_size: int | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    _reset: bool = False
    _before: Resident | None = None
    _loaded: Resident | None = None
    _device_before: int | None = None

    def before_load(self) -> None:
        """Reset the high-water mark and note what is resident already."""
        self._reset = reset_peak()
        self._before = resident()
        if self.device.startswith("cuda"):
            self._device_before = device_used_bytes(self.device)

    def after_load(self) -> None:
        """Note what loading the model added."""
        self._loaded = resident()

    def result(self) -> tuple[Memory, dict[str, str]]:
        """The record's entry, and why fields of it are null (by their path in the record)."""
        assert self._before is not None, "before_load was not called"
        assert self._loaded is not None, "after_load was not called"
        end = resident()
        before, loaded = self._before.now, self._loaded.now
        if self._reset and end.peak is not None:
            peak = end.peak
            method = "VmHWM, reset before the load"
        else:
            peak = max(lifetime_peak(), end.now)
            method = "ru_maxrss since the process began: the high-water mark cannot be reset here"
        if end.children:
            method += f"; {end.children} child process(es) added"
        if end.workers:
            method += f"; {end.workers} compile worker(s) left out"
        own = self.harness_mb or 0.0
        if self.harness_mb is not None:
            method += f"; {own:.0f} MiB of pqbench's own taken off"
        driver, driver_method = self._driver_mb()
        allocator = self._allocator_mb()
        memory = Memory(
            rss_peak_mb=peak / _MB - own,
            rss_runtime_mb=before / _MB - own,
            rss_model_mb=(loaded - before) / _MB,
            rss_working_mb=max(peak - loaded, 0) / _MB,
            vram_driver_mb=driver,
            vram_allocator_mb=allocator,
            method=f"{method}; {driver_method}" if driver_method else method,
            batch_size=self.batch_size,
            harness_mb=self.harness_mb,
        )
        return memory, {f"memory.{name}": why for name, why in self.reasons.items()}

    def _driver_mb(self) -> tuple[float | None, str]:
        if not self.device.startswith("cuda"):
            self.reasons["vram_driver_mb"] = "the model runs on the CPU"
            return None, ""
        given_back, more = self._given_back(), ""
        if given_back:
            more = f", and {given_back / _MB:.0f} MiB that the allocator had given back by then"
        own = process_gpu_bytes(self.device, os.getpid())
        if own is not None:
            return (own + given_back) / _MB, f"NVML per process{more}"
        now = device_used_bytes(self.device)
        if now is not None and self._device_before is not None:
            # In a container the driver reports the host's process ids, none of which is ours.
            used = now - self._device_before + given_back
            return used / _MB, f"NVML device-used minus before the load{more}"
        self.reasons["vram_driver_mb"] = "the driver's figures cannot be read (NVML)"
        return None, ""

    def _given_back(self) -> int:
        """Bytes that torch's allocator held at its peak and holds no more; 0 without torch.

        The driver tells what is held now; cuDNN's trials at the first call need more for a while.
        """
        import sys

        torch: Any = sys.modules.get("torch")
        if torch is None:
            return 0
        peak, now = torch.cuda.max_memory_reserved, torch.cuda.memory_reserved
        return int(peak(self.device)) - int(now(self.device))

    def _allocator_mb(self) -> float | None:
        import sys

        torch: Any = sys.modules.get("torch")
        if not self.device.startswith("cuda"):
            self.reasons["vram_allocator_mb"] = "the model runs on the CPU"
        elif torch is None:
            self.reasons["vram_allocator_mb"] = "the runtime has no allocator that tells"
        else:
            return float(torch.cuda.max_memory_reserved(self.device)) / _MB
        return None


def device_used_bytes(device: str) -> int | None:
    """Memory in use on a GPU by all processes, in bytes; None where NVML does not tell."""
    from pqbench.machine.gpu import nvml_device

    with nvml_device(device) as gpu:
        return None if gpu is None else int(gpu.nvml.nvmlDeviceGetMemoryInfo(gpu.handle).used)


def process_gpu_bytes(device: str, pid: int) -> int | None:
    """GPU memory of one process by the driver, in bytes; None if the driver does not list it."""
    from pqbench.machine.gpu import nvml_device

    with nvml_device(device) as gpu:
        if gpu is None:
            return None
        for process in gpu.nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle):
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
    return None
