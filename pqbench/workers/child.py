"""What the two kinds of child process share: environment, limits, death, errors, logs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

from pqbench.core import telemetry
from pqbench.core.errors import OutOfMemoryFailure, PqbenchError, StageTimeout, UnavailableError
from pqbench.workers.guard import watch

MEMORY_WORDS = (
    "memory allocation",
    "out of memory",
    "memoryerror",
    "bad_alloc",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "unable to allocate",
    "not enough memory",
    "failed to map segment",  # a library that does not fit in any more
)
MEMORY_HINT = "use a smaller batch size or model, or a machine with more memory"
LOG_TAIL_LINES = 15


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
        **telemetry.OFF,
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
    package = str(Path(__file__).parents[2])
    return list(dict.fromkeys([*own, package] if not package.startswith(prefixes) else own))


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def die_with_parent(parent: int) -> None:
    """End this process, and all that it has started, when its parent dies (Linux).

    The request pipe closes as well, but that is noticed only between two requests.
    """
    if not watch(parent) and sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(pid: int, memory_mb: float | None) -> None:
    """Limit a process's own data (Linux: RLIMIT_DATA, which counts heap and private mappings).

    Allocation beyond it fails in the process, which reports it; nothing has to watch meanwhile.

    Args:
        pid: The process, just started.
        memory_mb: Limit in MiB; None: no limit.
    """
    if memory_mb is None or not sys.platform.startswith("linux"):
        return
    import resource

    size = round(memory_mb * 2**20)
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))


def speaks_of_memory(text: str) -> bool:
    """Whether an error's text says that an allocation failed, in the words of the libraries."""
    text = text.lower()
    return any(words in text for words in MEMORY_WORDS)


def cell_timeout(where: str) -> StageTimeout:
    """The experiment ran past ``limits.cell_s``."""
    return StageTimeout(
        f"{where}: the experiment ran longer than limits.cell_s",
        hint="raise limits.cell_s, or use a smaller model or fewer images",
    )


def describe_error(error: BaseException) -> dict[str, str]:
    """An exception as the parent gets it: class, one line, hint."""
    text = str(error).strip()
    first = text.splitlines()[0][:500] if text else ""
    if isinstance(error, PqbenchError):
        return {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, MemoryError) or speaks_of_memory(text):
        return {
            "type": OutOfMemoryFailure.__name__,
            "message": first or "out of memory",
            "hint": MEMORY_HINT,
        }
    if isinstance(error, ImportError):
        return {
            "type": UnavailableError.__name__,
            "message": first,
            "hint": "install the missing library",
        }
    return {"type": type(error).__name__, "message": first, "hint": ""}


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file, or an empty text."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
