"""What the NVIDIA driver says, asked through its own C interface: no library is needed for that."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass

from pqbench.core.errors import ConfigError, UnavailableError

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it.

    Attributes:
        index: CUDA's number of it.
        name: Product name.
        capability: Compute capability, ``9.0``.
        driver: Newest CUDA version that the driver takes, ``13.0``.
    """

    index: int
    name: str
    capability: str
    driver: str


def parse_device(device: str) -> int:
    """The index in ``cuda`` or ``cuda:<index>``.

    Raises:
        ConfigError: It is neither.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise ConfigError(
            f"backend.device={device} is not possible", hint="choose cuda or cuda:<index>"
        )
    return int(match.group(1) or 0)


def gpu(index: int = 0) -> Gpu:
    """Ask the driver about a GPU.

    Raises:
        UnavailableError: There is no driver, it refuses, or it has no such GPU.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise UnavailableError(
            f"no NVIDIA driver: {error}", hint="run on a machine with an NVIDIA GPU and its driver"
        ) from error
    _call(driver, "cuInit", 0)
    count, version = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if index >= count.value:
        raise UnavailableError(
            f"the driver has {count.value} GPU(s), cuda:{index} is not among them",
            hint="choose another backend.device, or look at CUDA_VISIBLE_DEVICES",
        )
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    takes = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(index, name.value.decode(), f"{major.value}.{minor.value}", takes)


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = getattr(driver, function)(*arguments)
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        why = text.value.decode() if text.value else f"error {code}"
        raise UnavailableError(
            f"the NVIDIA driver refuses {function}: {why}",
            hint="see whether nvidia-smi works on this machine",
        )
