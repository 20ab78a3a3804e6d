"""NVIDIA GPUs as the driver's own library (NVML) sees them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


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


def describe_gpus() -> list[dict[str, Any]]:
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
