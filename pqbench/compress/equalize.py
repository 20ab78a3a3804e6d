"""Ranges of channels made alike between layers, without changing what a network computes.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction"
(https://arxiv.org/abs/1906.04721), section 4.1: where a ReLU or nothing stands between two layers,
a channel may be divided by a factor in the first and multiplied by it in the second. The factor
``sqrt(r1 / r2)`` of the ranges of the channel's weights makes both ranges ``sqrt(r1 r2)``. A
hard-swish between them does not allow it: it is not homogeneous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

_ROUNDS = 20
_DONE = 1e-3  # largest relative change of a factor at which it has converged
_LIMIT = 1e4  # of a factor: a dead channel has no range


@dataclass(frozen=True)
class Pair:
    """Two convolutions, the second reading the first alone, with a ReLU or nothing between.

    Attributes:
        first: Of the node that gives the channels: names of weight and bias.
        second: Name of the weight that reads them.
        depthwise: Whether the second reads each channel by itself.
    """

    first: tuple[str, str]
    second: str
    depthwise: bool


def pairs(graph: onnx.GraphProto) -> list[Pair]:
    """The pairs of convolutions that can be equalized, in the graph's order."""
    known, uses = onnx_graph.constants(graph), onnx_graph.used_names(graph)
    made_by = onnx_graph.producers(graph)
    found = []
    for node in graph.node:
        if node.op_type != "Conv" or node.input[1] not in known or uses[node.input[1]] != 1:
            continue
        name = node.input[0]
        before = made_by.get(name)
        if before is not None and before.op_type == "Relu" and uses[name] == 1:
            name = before.input[0]
            before = made_by.get(name)
        if before is None or before.op_type != "Conv" or uses[name] != 1:
            continue
        held = [n for n in before.input[1:] if n]
        if any(n not in known or uses[n] != 1 for n in held):
            continue
        groups, inputs = int(onnx_graph.attribute(node, "group", 1)), known[node.input[1]].dims[1]
        channels = known[before.input[1]].dims[0]
        if groups == 1 or (inputs == 1 and groups == channels == known[node.input[1]].dims[0]):
            found.append(Pair((held[0], held[1] if len(held) > 1 else ""), node.input[1],
                              groups > 1))  # fmt: skip
    return found


def equalize(model: onnx.ModelProto) -> int:
    """Equalize the weights of a float model in place, until the factors stay.

    Returns:
        How many pairs of layers were equalized.
    """
    from onnx import numpy_helper

    found = pairs(model.graph)
    stored = onnx_graph.constants(model.graph)
    names = {n for p in found for n in (*p.first, p.second) if n}
    values: dict[str, npt.NDArray[Any]] = {
        name: numpy_helper.to_array(stored[name]).astype(np.float64) for name in names
    }
    for _ in range(_ROUNDS):
        change = max((_balance(pair, values) for pair in found), default=0.0)
        if change < _DONE:
            break
    for name, value in values.items():
        kind = numpy_helper.to_array(stored[name]).dtype
        stored[name].CopyFrom(numpy_helper.from_array(value.astype(kind), name))
    return len(found)


def _balance(pair: Pair, values: dict[str, npt.NDArray[Any]]) -> float:
    """Move factors between the two layers of a pair; gives the largest relative change."""
    weight, bias = pair.first
    first, second = values[weight], values[pair.second]
    axis = 0 if pair.depthwise else 1
    given = np.abs(first).reshape(len(first), -1).max(axis=1)
    read = np.abs(np.moveaxis(second, axis, 0)).reshape(len(first), -1).max(axis=1)
    alive = (given > 0) & (read > 0)
    factor = np.sqrt(np.divide(given, read, where=alive, out=np.ones_like(given)))
    factor = np.clip(factor, 1 / _LIMIT, _LIMIT)
    values[weight] = first / factor.reshape(-1, *[1] * (first.ndim - 1))
    if bias:
        values[bias] = values[bias] / factor
    shape = [1] * second.ndim
    shape[axis] = len(factor)
    values[pair.second] = second * factor.reshape(shape)
    return float(np.abs(factor - 1).max(initial=0.0))
