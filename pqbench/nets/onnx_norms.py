"""BatchNormalization nodes of an ONNX graph as PyTorch modules.

Imported when a file is trained, never before: it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

NORM = "BatchNormalization"


class Norm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over all axes but the second, for any number of places.

    Args:
        node: A BatchNormalization node.
        arrays: The graph's constants.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, node: onnx.NodeProto, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        given = [torch.from_numpy(arrays[name].copy()) for name in node.input[1:5]]
        super().__init__(len(given[0]), eps=onnx_graph.attribute(node, "epsilon", 1e-5))
        with torch.no_grad():
            for own, value in zip(self.parts(), given, strict=True):
                own.copy_(value)

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, mean and variance, in the order of the node's inputs."""
        return self.weight, self.bias, self.running_mean, self.running_var

    def _check_input_dim(self, input: Tensor) -> None:
        pass
