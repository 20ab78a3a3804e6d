"""Constants of an ONNX graph: each reader's own, other values, a bias where there was none.

onnx is imported when a function is called, never when this module is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx


def own_vectors(graph: onnx.GraphProto) -> None:
    """Give every reader of a shared vector a copy of its own.

    Exporters and optimizers store equal biases once; channels of one layer could then not be
    removed, or trained, without those of the other. An Identity between them goes as well. Weights
    that layers share on purpose stay shared.
    """
    initializers = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in outputs:
            origin = copies.get(node.input[0], node.input[0])
            if origin in initializers:
                copies[node.output[0]] = origin
    for node in graph.node:
        node.input[:] = [copies.get(name, name) for name in node.input]
    uses = onnx_graph.used_names(graph)
    shared = {t.name: t for t in graph.initializer if uses[t.name] > 1}
    vectors = {
        name: tensor
        for name, tensor in shared.items()
        if tensor.dims and onnx_graph.numbers(tensor) == max(tensor.dims)
    }
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in vectors:
                copy = graph.initializer.add()
                copy.CopyFrom(vectors[name])
                copy.name = onnx_graph.free_name(graph, f"{name}_{node.output[0]}")
                node.input[place] = copy.name
    onnx_graph.remove_unused(graph)


def put(graph: onnx.GraphProto, values: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give constants of a graph other values, wherever they are stored."""
    from onnx import numpy_helper

    stored = onnx_graph.constants(graph)
    for name, value in values.items():
        stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))


def add_bias(graph: onnx.GraphProto, node: onnx.NodeProto, values: npt.NDArray[Any]) -> str:
    """Give a convolution or Gemm node without a bias one; gives the constant's name."""
    from onnx import numpy_helper

    name = onnx_graph.free_name(graph, f"{node.output[0]}_shift")
    graph.initializer.append(numpy_helper.from_array(values, name))
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    return name
