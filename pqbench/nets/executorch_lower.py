"""An exported network becomes an ExecuTorch program whose operators XNNPACK runs.

https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.nets.executorch_net import PROGRAM, count_operators, save_operators

if TYPE_CHECKING:
    import torch

PIP_NAME = "'pqbench[executorch]'"


def require_executorch() -> None:
    """Raise ``UnavailableError`` with the remedy where ExecuTorch is not installed."""
    if importlib.util.find_spec("executorch") is None:
        raise UnavailableError("ExecuTorch is not installed", hint=f"pip install {PIP_NAME}")


def lower(
    network: torch.nn.Module, example: tuple[torch.Tensor, ...], folder: Path
) -> dict[str, dict[str, int]]:
    """Export for the example's shapes, give to XNNPACK what it takes, and save the program.

    Args:
        network: In eval mode; float32, or with the quantizers of PT2E.
        example: One tensor an input.
        folder: Where the program and its list of operators go; created if missing.

    Returns:
        Operators by who runs them; see ``pqbench.nets.executorch_net.count_operators``.

    Raises:
        UnavailableError: ExecuTorch is not installed.
        UnsupportedError: The network cannot be exported, or not be lowered.
    """
    require_executorch()
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        exported = torch.export.export(network, example)
        edge: Any = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        program = edge.to_executorch()
    except Exception as error:  # whatever the exporter and the lowering raise
        raise UnsupportedError(
            f"ExecuTorch cannot convert this network: {str(error).splitlines()[0][:300]}",
            hint="use backend=torch, backend=ort or backend=openvino for this model",
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(program.buffer)
    counts = count_operators(edge.exported_program())
    save_operators(folder, counts)
    return counts
