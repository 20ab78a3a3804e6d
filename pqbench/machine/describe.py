"""The machine that a record was made on."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from pqbench.core.secrets import mask_text
from pqbench.machine.cpu import cpu_quota, describe_cpu, load_average, memory_limit_bytes
from pqbench.machine.gpu import describe_gpus
from pqbench.machine.software import git_state, versions


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
        "cpu": describe_cpu(threads),
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "limit_bytes": memory_limit_bytes(),
        },
        "container": {"cpu_quota": cpu_quota(), "in_container": _in_container()},
        "load_average": load_average(),
        "gpus": describe_gpus(),
        "os": {
            "platform": platform.platform(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()),
        },
        "python": platform.python_version(),
        "libraries": versions(),
        "git": git_state(),
        "command": mask_text(shlex.join(getattr(sys, "orig_argv", sys.argv))),
    }


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
