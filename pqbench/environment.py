"""The machine a record was made on, and the environment that every child process gets.

Nothing here imports a framework: versions come from the installed packages' metadata.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = (
    "pqbench",
    "torch",
    "torchvision",
    "torchao",
    "torch-pruning",
    "timm",
    "lightning",
    "torchmetrics",
    "nncf",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "cuda-bindings",
    "pycuda",
    "numpy",
    "scipy",
    "pillow",
    "pandas",
    "pyarrow",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "safetensors",
    "triton",
)
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


def child_environment(threads: int) -> dict[str, str]:
    """Environment variables for a child process: this process's, with threads set and no telemetry.

    Args:
        threads: Threads that every runtime may use.

    Returns:
        All variables. ``PYTHONPATH`` holds this process's import path, so that a user's own classes
        are found in the child as they are here.
    """
    number = str(threads)
    extra = {
        "OMP_NUM_THREADS": number,
        "MKL_NUM_THREADS": number,
        "OPENBLAS_NUM_THREADS": number,
        # OpenVINO's telemetry (NNCF sends through it) stays silent under CI; NNCF_CI is not enough.
        "CI": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONPATH": os.pathsep.join(_own_path()),
    }
    return {**os.environ, **extra}


def _own_path() -> list[str]:
    """Entries of the import path that a fresh interpreter would not have."""
    prefixes = tuple({sys.prefix, sys.base_prefix})
    entries = [str(Path(p or ".").absolute()) for p in sys.path]
    own = [p for p in entries if Path(p).is_dir() and not p.startswith(prefixes)]
    package = str(Path(__file__).parent.parent)
    return list(dict.fromkeys([*own, package] if not package.startswith(prefixes) else own))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


# -- CPU and container -----------------------------------------------------------------------------


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


def cpu_saturates_int8() -> bool:
    """Whether this x86 CPU adds pairs of 8-bit products in 16 bits, where they can saturate.

    CPUs without VNNI (``vpdpbusd``) do so in the kernels of ONNX Runtime and OpenVINO for unsigned
    activations and signed weights; weights of 7 bits cannot overflow there. See "When and why do I
    need to try reduce_range" in ONNX Runtime's documentation of quantization.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"} & set(_cpuinfo()[1])


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


def _cpu(threads: int | None) -> dict[str, Any]:
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


# -- GPU -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NvmlDevice:
    """A GPU as NVML sees it: the library and the handle to pass to it."""

    nvml: Any
    handle: Any


def visible_gpu(index: int) -> int | str | None:
    """NVML's name of the CUDA device ``index``: an index in PCI order or a UUID.

    Honours ``CUDA_VISIBLE_DEVICES``; children get ``CUDA_DEVICE_ORDER=PCI_BUS_ID``, the order of
    NVML. None if the device is hidden, or is a MIG slice, which NVML counts differently.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return index
    entries = [entry.strip() for entry in visible.split(",")]
    if index >= len(entries):
        return None
    entry = entries[index]
    if entry.isdigit():
        return int(entry)
    return entry if entry.startswith("GPU-") else None


@contextlib.contextmanager
def nvml_device(device: str) -> Iterator[NvmlDevice | None]:
    """NVML with the handle of ``cuda:<index>``, or None without such a device or library."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        yield None
        return
    name = visible_gpu(int(device.partition(":")[2] or 0))
    if name is None:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        try:
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(name)
                if isinstance(name, int)
                else pynvml.nvmlDeviceGetHandleByUUID(name)
            )
        except pynvml.NVMLError:
            handle = None
        yield None if handle is None else NvmlDevice(pynvml, handle)
    finally:
        pynvml.nvmlShutdown()


def _gpus() -> list[dict[str, Any]]:
    """Every GPU with driver, clocks and throttle reasons; empty without GPU or NVML."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []

    def ask(function: str, *arguments: Any) -> Any:
        try:
            value = getattr(pynvml, function)(*arguments)
        except pynvml.NVMLError:
            return None
        return value.decode() if isinstance(value, bytes) else value

    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = ask("nvmlDeviceGetMemoryInfo", handle)
            gpus.append(
                {
                    "index": index,
                    "name": ask("nvmlDeviceGetName", handle),
                    "uuid": ask("nvmlDeviceGetUUID", handle),
                    "driver": ask("nvmlSystemGetDriverVersion"),
                    "cuda_driver": ask("nvmlSystemGetCudaDriverVersion"),
                    "memory_total_mb": None if memory is None else memory.total / 2**20,
                    "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_SM),
                    "memory_clock_mhz": ask(
                        "nvmlDeviceGetClockInfo", handle, pynvml.NVML_CLOCK_MEM
                    ),
                    "throttle_reasons": ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
                    "temperature_c": ask(
                        "nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU
                    ),
                }
            )
        return gpus
    finally:
        pynvml.nvmlShutdown()


# -- software --------------------------------------------------------------------------------------


@functools.cache
def versions() -> dict[str, str]:
    """Version of each library that can decide a result, where installed."""
    import importlib.metadata

    found: dict[str, str] = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def installed() -> list[str]:
    """Every installed distribution as ``name==version``, sorted: what ``pip install -r`` takes."""
    import importlib.metadata

    found = {
        (d.metadata["Name"] or "").lower().replace("_", "-"): d.version
        for d in importlib.metadata.distributions()
    }
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name]


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of pqbench's source tree and whether it was changed; nulls in an installed package."""
    root = Path(__file__).parent.parent
    unknown = {"commit": None, "dirty": None}
    if not (root / ".git").exists():
        return unknown
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--verify", "-q", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return unknown
    return {
        "commit": commit.stdout.strip() or None,
        "dirty": bool(status.stdout.strip()) if status.returncode == 0 else None,
    }


def load_average() -> list[float] | None:
    """Load of the machine over 1, 5 and 15 minutes, or None where unknown."""
    try:
        return [round(x, 2) for x in os.getloadavg()]
    except (OSError, AttributeError):
        return None


def describe(threads: int | None = None) -> dict[str, Any]:
    """The machine, its limits, the libraries and the command, for a record.

    Args:
        threads: Threads the experiment uses.

    Returns:
        JSON-ready values; what the machine does not tell is None.
    """
    import psutil

    memory = psutil.virtual_memory()
    return {
        "cpu": _cpu(threads),
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "limit_bytes": memory_limit_bytes(),
        },
        "container": {"cpu_quota": cpu_quota(), "in_container": _in_container()},
        "load_average": load_average(),
        "gpus": _gpus(),
        "os": {
            "platform": platform.platform(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
        },
        "python": platform.python_version(),
        "libraries": versions(),
        "git": git_state(),
        "command": shlex.join(getattr(sys, "orig_argv", sys.argv)),
    }


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
