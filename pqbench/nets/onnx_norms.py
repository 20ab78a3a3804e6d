"""BatchNorm of ONNX graphs as PyTorch modules, and folded into the convolutions before it.

Imported when a file is trained, never before: it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pqbench.nets import onnx_constants, onnx_graph

if TYPE_CHECKING:
    import onnx

NORM = "BatchNormalization"
EPSILON = 1e-5


def norm_of(node: onnx.NodeProto, arrays: Mapping[str, npt.NDArray[Any]]) -> nn.Module:
    """A BatchNormalization node as a module."""
    scale, shift, mean, variance = (torch.from_numpy(arrays[n].copy()) for n in node.input[1:5])
    return make_norm(scale, shift, mean, variance, onnx_graph.attribute(node, "epsilon", EPSILON))


def make_norm(
    scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, epsilon: float = EPSILON
) -> nn.Module:
    """BatchNorm over all axes but the second, with these values."""
    layer = _Norm(len(scale), eps=epsilon)
    with torch.no_grad():
        layer.weight.copy_(scale)
        layer.bias.copy_(shift)
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_(variance)  # type: ignore[union-attr]
    return layer


class _Norm(nn.modules.batchnorm._BatchNorm):
    """For any number of places."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def fold(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    norm: nn.Module,
    values: dict[str, npt.NDArray[np.float32]],
) -> None:
    """Fold a BatchNorm into the convolution before it; one without a bias gets one."""
    scale, shift, mean, variance = (
        part.detach().cpu().double().numpy()  # type: ignore[union-attr]
        for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = scale / np.sqrt(variance + EPSILON)
    weight = values[node.input[1]]
    shape = (-1, *[1] * (weight.ndim - 1))
    values[node.input[1]] = (weight * factor.reshape(shape)).astype(np.float32)
    bias = values[node.input[2]] if len(node.input) > 2 and node.input[2] else 0.0
    new = ((bias - mean) * factor + shift).astype(np.float32)
    name = node.input[2] if len(node.input) > 2 else ""
    if not name:
        name = onnx_constants.add_bias(graph, node, new)
    values[name] = new
