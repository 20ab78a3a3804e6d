"""Hard-sigmoid, hard-swish and global means as integer kernels of ONNX Runtime.

Its quantizer knows neither: each would be computed in float, between a DequantizeLinear and a
QuantizeLinear of the whole tensor, where the float model has them fused into the convolutions.

A hard-sigmoid is a straight line between two limits, and storing a number in 8 bits limits it, too:
``clip(a x + b, 0, 1) = a clip(x + b/a, 0, 1/a)``. So it is a sum with a constant, stored with the
step ``1/a / 255`` and the zero point 0, which is read back with the step ``1/255``: one
``QLinearAdd`` in place of three kernels. Hard-swish is ``x`` times that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

_LEVELS = 255


def pool_means(model: onnx.ModelProto) -> int:
    """Write means over all places of an image as ``GlobalAveragePool``, in place.

    Returns:
        How many.
    """
    import onnx

    known, ranks = onnx_graph.constants(model.graph), _ranks(model)
    changed = 0
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or not onnx_graph.attribute(node, "keepdims", 1):
            continue
        axes = onnx_graph.attribute(node, "axes")
        if len(node.input) > 1 and node.input[1] in known:
            axes = onnx.numpy_helper.to_array(known[node.input[1]])
        rank = ranks.get(node.input[0], 0)
        if axes is None or rank < 3:
            continue
        if sorted(int(axis) % rank for axis in axes) == list(range(2, rank)):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]
            changed += 1
    if changed:
        onnx_graph.remove_unused(model.graph)  # the axes
    return changed


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Dimensions of values, as far as shape inference tells."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values}


def integer_gates(model: onnx.ModelProto) -> int:
    """Compute quantized hard-sigmoids as integer sums, in a Q/DQ model, in place.

    Those alone that stand between a DequantizeLinear and one QuantizeLinear of uint8.

    Returns:
        How many.
    """
    graph = model.graph
    made_by, uses = onnx_graph.producers(graph), onnx_graph.used_names(graph)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    known = onnx_graph.constants(graph)
    sums: dict[str, list[onnx.NodeProto]] = {}
    for gate in [node for node in graph.node if node.op_type == "HardSigmoid"]:
        source = made_by.get(gate.input[0])
        after = readers.get(gate.output[0], [])
        if source is None or source.op_type != "DequantizeLinear" or len(after) != 1:
            continue
        (store,) = after
        if store.op_type != "QuantizeLinear" or uses[gate.output[0]] != 1:
            continue
        reads = readers.get(store.output[0], [])
        if any(n.op_type != "DequantizeLinear" for n in reads) or not _is_uint8(store, known):
            continue
        if onnx_graph.attribute(gate, "beta", 0.5) > 0 < onnx_graph.attribute(gate, "alpha", 0.2):
            sums[gate.output[0]] = _sum(graph, gate, store, reads)
    nodes = [new for node in graph.node for new in sums.get(node.output[0], [node])]
    onnx_graph.replace_nodes(graph, nodes)
    return len(sums)


def _is_uint8(store: onnx.NodeProto, known: Any) -> bool:
    import onnx

    zero = known.get(store.input[2]) if len(store.input) > 2 else None
    return zero is not None and bool(zero.data_type == onnx.TensorProto.UINT8)


def _sum(
    graph: onnx.GraphProto,
    gate: onnx.NodeProto,
    store: onnx.NodeProto,
    reads: list[onnx.NodeProto],
) -> list[onnx.NodeProto]:
    """The nodes that take a hard-sigmoid's place; those after it are changed."""
    import onnx

    slope = float(onnx_graph.attribute(gate, "alpha", 0.2))
    height = float(onnx_graph.attribute(gate, "beta", 0.5))
    base = gate.output[0]

    def constant(name: str, value: Any, kind: Any) -> str:
        graph.initializer.append(
            onnx.numpy_helper.from_array(np.asarray(value, kind), f"{base}_{name}")
        )
        return f"{base}_{name}"

    zero = constant("zero", 0, np.uint8)
    stored = constant("stored_step", 1 / slope / _LEVELS, np.float32)
    read = constant("read_step", 1 / _LEVELS, np.float32)
    offset = constant("offset", _LEVELS, np.uint8)
    step = constant("offset_step", height / slope / _LEVELS, np.float32)
    dequantize = onnx.helper.make_node(
        "DequantizeLinear", [offset, step, zero], [f"{base}_summand"], f"{base}_summand"
    )
    add = onnx.helper.make_node("Add", [gate.input[0], f"{base}_summand"], [base], gate.name)
    store.input[1], store.input[2] = stored, zero
    for reader in reads:
        reader.input[1], reader.input[2] = read, zero
    return [dequantize, add]
