"""Flush subnormal floats to zero, in every thread of a process.

Trained and pruned networks hold subnormal weights, on which a CPU is up to a hundred times slower;
runtimes differ in whether they flush them. A new thread inherits the floating-point environment of
the thread that makes it, so setting it before a runtime makes its threads sets it for all of them
(``torch.set_flush_denormal`` reaches only the calling thread).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys

# Offset of the control word in C's fenv_t, in 32-bit words, and the bits to set in it:
# x86-64 MXCSR flush-to-zero (15) and denormals-are-zero (6); AArch64 FPCR FZ (24).
_CONTROL = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}


def flush_denormals() -> bool:
    """Flush subnormals to zero in this thread and in all threads it starts from now on.

    Returns:
        True if it is in force; False on a platform where it cannot be set (only glibc on x86-64
        and AArch64 is known).
    """
    place = _CONTROL.get(platform.machine())
    if not sys.platform.startswith("linux") or place is None:
        return False
    library = ctypes.util.find_library("m")
    if library is None:
        return False
    try:
        libm = ctypes.CDLL(library)
    except OSError:
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    word, bits = place
    state = (ctypes.c_uint32 * 16)()
    if libm.fegetenv(state) != 0:
        return False
    state[word] |= bits
    return bool(libm.fesetenv(state) == 0)
