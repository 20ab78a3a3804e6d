"""Outputs without an axis of samples are given one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pqbench.models.onnx.load import Batch, make_session, opset_of, run
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

AXES_AS_INPUT = 13  # opset since which Squeeze takes its axes as an input


def squeeze(model: onnx.ModelProto, kind: str, source: str, target: str) -> onnx.NodeProto:
    """A Squeeze or Unsqueeze of the first axis."""
    import onnx

    if opset_of(model) < AXES_AS_INPUT:
        return onnx.helper.make_node(kind, [source], [target], axes=[0])
    axes = onnx_graph.free_name(model.graph, "first_axis")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), axes))
    return onnx.helper.make_node(kind, [source, axes], [target])


def wrap_rowless(model: onnx.ModelProto, one: Batch, name: str) -> list[str]:
    """Give a leading axis of 1 to the outputs of a file with a fixed batch of 1 that have none."""
    values = run(make_session(model, name), one, name)
    odd = [
        output
        for output, value in zip(model.graph.output, values, strict=True)
        if isinstance(value, np.ndarray) and value.shape[:1] != (1,)
    ]
    nodes = [wrap_output(model, output) for output in odd]
    onnx_graph.replace_nodes(model.graph, [*model.graph.node, *nodes])
    names = ", ".join(output.name for output in odd)
    return [f"output {names} has no axis of samples: one call is one sample"] if odd else []


def wrap_output(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> onnx.NodeProto:
    """The node that gives an output a leading axis of 1, under the output's own name."""
    outer = value.name
    inner = onnx_graph.free_name(model.graph, f"{outer}_one")
    onnx_graph.rename(model.graph, {outer: inner})
    value.name = outer
    shape = value.type.tensor_type.shape
    if value.type.tensor_type.HasField("shape"):
        copies = [type(size).FromString(size.SerializeToString()) for size in shape.dim]
        del shape.dim[:]
        shape.dim.add().dim_value = 1
        shape.dim.extend(copies)
    return squeeze(model, "Unsqueeze", inner, outer)
