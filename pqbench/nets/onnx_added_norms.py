"""BatchNorm added to an ONNX graph for its training alone.

It is mostly folded into the convolutions in a file that is deployed. Here layers of that kind are
put behind the convolutions, set so that they change nothing; when the trained weights are written
to the file they are folded in again. Imported when a file is trained: it imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pqbench.nets import onnx_graph
from pqbench.nets.onnx_norms import EPSILON, NORM, make_norm
from pqbench.nets.onnx_trainable import OnnxModule

if TYPE_CHECKING:
    import onnx


def add_norms(
    module: OnnxModule, model: onnx.ModelProto, batches: Iterable[Sequence[Tensor]]
) -> int:
    """Put BatchNorm behind convolutions, set so that nothing changes; gives how many.

    Behind those whose weights and bias no other node reads, that make feature maps of more than one
    place, and that have no BatchNorm; not behind the last layer.

    Args:
        module: Of ``model``; left in eval mode.
        model: The graph.
        batches: Inputs to measure means and variances on.
    """
    graph = model.graph
    uses = onnx_graph.used_names(graph)
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    normed = {n.input[0] for n in graph.node if n.op_type == NORM}
    learnt = set(module.names)
    wanted = {
        n.output[0]
        for n in layers[:-1]
        if n.op_type == "Conv"
        and n.output[0] not in normed
        and n.input[1] in learnt
        and all(uses[name] == 1 for name in n.input[1:] if name)
    }
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, value: Tensor) -> None:
        if name not in wanted:
            return
        places = value.shape[2:].numel() * len(value)
        if value.shape[2:].numel() == 1:
            wanted.discard(name)
            return
        axes = [axis for axis in range(value.ndim) if axis != 1]
        variance, mean = (v.double() for v in torch.var_mean(value, axes, correction=0))
        sums[name] = sums.get(name, torch.zeros(())) + places * mean
        squares[name] = squares.get(name, torch.zeros(())) + places * (variance + mean**2)
        counts[name] = counts.get(name, 0) + places

    module.eval()
    module.watch = watch
    try:
        with torch.no_grad():
            for batch in batches:
                module(*batch)
    finally:
        module.watch = None
    for name in sums:
        mean = sums[name] / counts[name]
        variance = (squares[name] / counts[name] - mean**2).clamp_min(0)
        scale = (variance + EPSILON).sqrt()
        layer = make_norm(scale.float(), mean.float(), mean.float(), variance.float())
        module.added[name] = len(module.added_norms)
        module.added_norms.append(layer.eval())
    return len(sums)
