"""PyTorch to ExecuTorch: a program whose operators XNNPACK runs, as far as it has them.

https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.export.static_shapes import static_shapes
from pqbench.nets.executorch_net import PROGRAM, count_operators, save_operators

PIP_NAME = "'pqbench[executorch]'"


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
    if importlib.util.find_spec("executorch") is None:
        raise UnavailableError("ExecuTorch is not installed", hint=f"pip install {PIP_NAME}")
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from pqbench.nets.checkpoint import load_network

    started = time.perf_counter()
    shapes = static_shapes(artifact, "ExecuTorch", 1)
    network = load_network(artifact).eval()
    example = tuple(torch.zeros(shape) for shape in shapes.values())
    try:
        exported = torch.export.export(network, example)
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        program = edge.to_executorch()
    except Exception as error:  # whatever the exporter and the lowering raise
        raise UnsupportedError(
            f"ExecuTorch cannot convert this network: {str(error).splitlines()[0][:300]}",
            hint="use backend=torch, backend=ort or backend=openvino for this model",
        ) from error
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / PROGRAM).write_bytes(program.buffer)
    counts = count_operators(edge.exported_program())
    save_operators(workdir, counts)
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "executorch", "partitioner": "xnnpack"},
        details={who: sum(found.values()) for who, found in counts.items()},
    )
    return artifact.derive(workdir, PROGRAM, entry, "executorch")
