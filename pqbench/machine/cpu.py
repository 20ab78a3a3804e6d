"""The processor: its model and features, and how much of it this process may use."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

# CPU features that decide how fast integer and half-precision kernels are.
FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "fma",
    "hypervisor",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
_CPU = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


@functools.cache
def _cpuinfo() -> tuple[str, tuple[str, ...]]:
    """Model name and all feature flags."""
    text = _read(Path("/proc/cpuinfo")) or ""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip().lower(), value.strip())
    flags = tuple((values.get("flags") or values.get("features") or "").split())
    if "model name" in values:
        model = values["model name"]
        if "model" in values:  # a virtual machine's name may say nothing: add what the CPU says
            model += f" (family {values.get('cpu family')}, model {values['model']})"
        return model, flags
    return platform.processor() or platform.machine(), flags


def cpu_model() -> str:
    """The processor's name."""
    return _cpuinfo()[0]


def thread_counts() -> str:
    """Powers of two up to the usable cores, and these: ``1,2,4,6`` on six of them."""
    cores = usable_cores()
    counts = {2**k for k in range(cores.bit_length()) if 2**k <= cores} | {cores}
    return ",".join(str(count) for count in sorted(counts))


def cpu_saturates_int8() -> bool:
    """Whether this x86 CPU adds pairs of 8-bit products in 16 bits, where they can saturate.

    CPUs without VNNI (``vpdpbusd``) do so in the kernels of ONNX Runtime and OpenVINO for unsigned
    activations and signed weights; weights of 7 bits cannot overflow there. See "When and why do I
    need to try reduce_range" in ONNX Runtime's documentation of quantization.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"} & set(_cpuinfo()[1])


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies BF16 in hardware (AVX512-BF16, AMX-BF16, or Arm's BF16)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_cpuinfo()[1]))


def affinity() -> list[int]:
    """The CPUs this process may run on."""
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:
        return list(range(os.cpu_count() or 1))


def _own_cgroup(controller: str) -> list[Path]:
    """Folders of this process's control group for a controller, its parents after it."""
    text = _read(Path("/proc/self/cgroup")) or ""
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            root = _CGROUP / controller
        elif names == "" and (_CGROUP / "cgroup.controllers").exists():
            root = _CGROUP
        else:
            continue
        folder = root / path.lstrip("/")
        return [f for f in (folder, *folder.parents) if root in (f, *f.parents) and f.is_dir()]
    return []


def cpu_quota() -> float | None:
    """CPUs' worth of time that the container may use (cgroup v1 or v2), or None without limit."""
    limits = []
    for folder in _own_cgroup("cpu"):
        quota, period = None, None
        v2 = _read(folder / "cpu.max")
        if v2 is not None:
            first, _, second = v2.partition(" ")
            quota, period = first, second
        else:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        if quota and period and quota not in ("max", "-1"):
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit_bytes() -> int | None:
    """Memory that the container may use, in bytes, or None without limit."""
    limits = []
    for folder in _own_cgroup("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value and value.isdigit() and int(value) < 2**60:
                limits.append(int(value))
    return min(limits, default=None)


def usable_cores() -> int:
    """CPUs this process can really use, by affinity and by the container's quota; at least 1."""
    quota = cpu_quota()
    cores = len(affinity())
    return cores if quota is None else max(1, min(cores, int(quota + 0.5)))


def describe_cpu(threads: int | None) -> dict[str, Any]:
    """Model, features, cores, limits and clock, JSON-ready; None where it is not told."""
    import psutil

    model, flags = _cpuinfo()
    cpus = affinity()
    turbo = {"0": True, "1": False}.get(_read(_CPU / "intel_pstate/no_turbo") or "")
    if turbo is None:
        turbo = {"1": True, "0": False}.get(_read(_CPU / "cpufreq/boost") or "")
    frequency = _read(_CPU / f"cpu{cpus[0]}/cpufreq/scaling_max_freq")
    return {
        "model": model,
        "architecture": platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "logical_cores": os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "affinity": cpus,
        "usable_cores": usable_cores(),
        "threads": threads,
        "governor": _read(_CPU / f"cpu{cpus[0]}/cpufreq/scaling_governor"),
        "turbo": turbo,
        "max_mhz": int(frequency) / 1e3 if frequency and frequency.isdigit() else None,
    }


def load_average() -> list[float] | None:
    """Load of the machine over 1, 5 and 15 minutes, or None where unknown."""
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except (OSError, AttributeError):
        return None
