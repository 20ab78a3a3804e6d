"""Notice compilation inside the timed loop, which would be counted as latency."""

from __future__ import annotations

import sys

from pqbench.core.errors import PqbenchError


def compilations() -> int:
    """Graphs that ``torch.compile`` has compiled in this process so far; 0 without torch."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return 0
    return int(dynamo.counters["stats"]["unique_graphs"])


def refuse(compiled: int, batch_size: int) -> None:
    """Refuse a timed block in which something was compiled.

    Raises:
        PqbenchError: ``compiled`` is not 0.
    """
    if compiled:
        raise PqbenchError(
            f"{compiled} graph(s) were compiled inside the timed loop at batch size {batch_size}",
            hint="compile for fixed shapes, or let the backend compile for every batch size when "
            "it loads",
        )
