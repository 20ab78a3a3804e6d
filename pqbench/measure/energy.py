"""Energy by counters of the hardware: RAPL for the CPU package, NVML for a GPU.

Where no counter can be read the result is null with the reason. Nothing is estimated from a
thermal design power.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        source: ``rapl`` or ``nvml``.
        joules: Energy by counter since some fixed time, in J.
        wrap: Value in J at which each counter starts again; 0 if it does not.
    """

    source: str
    joules: dict[str, float]
    wrap: dict[str, float]


def read(device: str, powercap: Path = POWERCAP) -> tuple[Reading | None, str]:
    """Read the counters of the device that runs the model.

    Args:
        device: ``cpu`` or ``cuda:<index>``.
        powercap: Where RAPL is found.

    Returns:
        The counters, or None with the reason.
    """
    if device.startswith("cuda"):
        return _read_nvml(device)
    return _read_rapl(powercap)


def _read_rapl(powercap: Path) -> tuple[Reading | None, str]:
    packages = [
        folder
        for folder in sorted(powercap.glob("intel-rapl:*"))
        if folder.name.count(":") == 1 and (folder / "energy_uj").exists()
    ]
    if not packages:
        return None, f"no RAPL counter on this machine ({powercap} holds none)"
    joules, wrap = {}, {}
    for folder in packages:
        try:
            joules[folder.name] = int((folder / "energy_uj").read_text()) / 1e6
            wrap[folder.name] = int((folder / "max_energy_range_uj").read_text()) / 1e6
        except OSError as error:
            return None, f"RAPL cannot be read: {error.strerror} ({folder / 'energy_uj'})"
    return Reading("rapl", joules, wrap), ""


def _read_nvml(device: str) -> tuple[Reading | None, str]:
    from pqbench.machine.gpu import nvml_device

    with nvml_device(device) as gpu:
        if gpu is None:
            return None, "NVML does not find the GPU, or nvidia-ml-py is not installed"
        try:
            value = gpu.nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle) / 1e3
        except gpu.nvml.NVMLError as error:
            return None, f"this GPU has no energy counter ({error})"
    return Reading("nvml", {device: value}, {device: 0.0}), ""


def joules_between(before: Reading, after: Reading) -> float:
    """Energy between two readings in J; a counter that started again once is put right."""
    total = 0.0
    for name, start in before.joules.items():
        used = after.joules[name] - start
        if used < 0:
            used += before.wrap[name]
        total += used
    return total
