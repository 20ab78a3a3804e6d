"""PyTorch to ExecuTorch: a program whose operators XNNPACK runs, as far as it has them.

https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html
"""

from __future__ import annotations

import time
from pathlib import Path

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.nets.executorch_lower import lower, require_executorch
from pqbench.nets.executorch_net import PROGRAM
from pqbench.nets.static_shapes import static_shapes


def convert_executorch(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert a float ``torch`` artifact for one sample a call.

    Args:
        artifact: The PyTorch model; its inputs must be float32 of fixed sizes, the batch aside.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``executorch`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnavailableError: ExecuTorch is not installed.
        UnsupportedError: The network cannot be exported, or not be lowered.
    """
    require_executorch()
    import torch

    from pqbench.nets.checkpoint import load_network

    started = time.perf_counter()
    shapes = static_shapes(artifact, "ExecuTorch", 1)
    example = tuple(torch.zeros(shape) for shape in shapes.values())
    counts = lower(load_network(artifact).eval(), example, workdir)
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "executorch", "partitioner": "xnnpack"},
        details={who: sum(found.values()) for who, found in counts.items()},
    )
    return artifact.derive(workdir, PROGRAM, entry, "executorch")
