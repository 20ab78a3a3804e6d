"""The C library's heap: whether what a process frees is kept for its next request.

By default glibc takes arrays of more than 128 KiB (a limit that grows to 32 MiB) straight from the
kernel and gives them back when they are freed, and it gives back the free top of its heap. A
network that asks for the memory of each layer anew then pays for a page fault per 4 KiB in every
call. PyTorch's tuning guide advises an allocator that keeps its memory, and its launcher
(``torch.backends.xeon.run_cpu``) looks for one; ONNX Runtime and OpenVINO have arenas of their own.
glibc itself keeps memory when told so: ``mallopt(3)``.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h


def can_keep_freed_memory() -> bool:
    """Whether the C library is glibc, which can be told."""
    return platform.libc_ver()[0] == "glibc"


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees, until the process ends.

    Returns:
        Whether it took both settings; False where it is not glibc.
    """
    if not can_keep_freed_memory():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
