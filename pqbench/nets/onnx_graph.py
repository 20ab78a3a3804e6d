"""Facts and repairs of an ONNX graph that reading, compressing and counting need alike.

onnx is imported when a function is called, never when this module is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

EMBED_BYTES = 1_900_000_000  # protobuf holds 2 GB
STANDARD = ("", "ai.onnx")
FLOATS = ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")
# Operators that multiply by weights: positions of the inputs that may hold them.
WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
MOVES = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast")
QUANTIZED = (
    "QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger",
    "DynamicQuantize", "QGemm", "QAttention", "MatMulNBits",
)  # fmt: skip


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its If, Loop and Scan nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def used_names(graph: onnx.GraphProto) -> Counter[str]:
    """How often each value is read: by nodes at any depth, or as an output of the graph."""
    found = Counter(value.name for value in graph.output)
    for part in graphs(graph):
        for node in part.node:
            found.update(name for name in node.input if name)
        if part is not graph:
            found.update(value.name for value in part.output)
    return found


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    import onnx

    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a ``Constant`` node gives, without a name; None for strings and sparse tensors."""
    import onnx

    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attribute) != 1:
        return None
    entry = node.attribute[0]
    if entry.name == "value":
        tensor: onnx.TensorProto = entry.t
        return tensor
    if entry.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        return None
    kind = np.float32 if "float" in entry.name else np.int64
    return onnx.numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(entry), kind))


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and ``Constant`` nodes of one graph, without its If and Loop bodies."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = constant_value(node)
        if value is not None:
            found[node.output[0]] = value
    return found


def numbers(tensor: onnx.TensorProto) -> int:
    """How many values a tensor holds."""
    return math.prod(tensor.dims)


def is_float(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor holds floating-point values."""
    import onnx

    return onnx.TensorProto.DataType.Name(tensor.data_type) in FLOATS


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a model holds quantize/dequantize pairs or integer operators."""
    return any(node.op_type.startswith(QUANTIZED) for part in graphs(model.graph)
               for node in part.node)  # fmt: skip


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value of one graph."""
    return {name: node for node in graph.node for name in node.output if name}


def trace(name: str, made_by: Mapping[str, onnx.NodeProto], through: Sequence[str] = MOVES) -> str:
    """Walk back from a value through operators that only move or cast it."""
    while name in made_by and made_by[name].op_type in through and made_by[name].input:
        name = made_by[name].input[0]
    return name


def layer_weights(graph: onnx.GraphProto, skip: Sequence[str] = ()) -> list[str]:
    """Constants that convolutions, products and recurrent layers multiply by, each once.

    A constant behind Transpose, Identity, Reshape or Cast counts.

    Args:
        graph: The graph; If and Loop bodies are not looked at.
        skip: Names of nodes to leave out.
    """
    known, made_by = constants(graph), producers(graph)
    found = []
    for node in graph.node:
        if node.domain not in STANDARD or node.name in skip:
            continue
        for position in WEIGHT_INPUTS.get(node.op_type, ()):
            if position < len(node.input):
                name = trace(node.input[position], made_by)
                if name in known and len(known[name].dims) > 1:
                    found.append(name)
    return list(dict.fromkeys(found))


def table_size(graph: onnx.GraphProto) -> int:
    """Parameters of embeddings: constants that rows are looked up in and that no layer uses."""
    known, layers = constants(graph), set(layer_weights(graph))
    tables = {
        node.input[0]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in known and node.input[0] not in layers
    }
    return sum(numbers(known[n]) for n in tables if is_float(known[n]) and len(known[n].dims) > 1)


def remove_unused(graph: onnx.GraphProto) -> int:
    """Remove nodes and initializers that nothing reads; gives the number of nodes removed."""
    removed = 0
    while True:
        used = used_names(graph)
        needed = [node for node in graph.node if any(used[name] for name in node.output)]
        idle = len(graph.node) - len(needed)
        if not idle:
            break
        removed += idle
        replace_nodes(graph, needed)
    kept = [tensor for tensor in graph.initializer if used[tensor.name]]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return removed


def replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a graph these nodes instead of its own."""
    copies = []
    for node in nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values everywhere: inputs, outputs, initializers, and inside If and Loop bodies."""
    for part in graphs(graph):
        for node in part.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*part.input, *part.output, *part.value_info, *part.initializer):
            value.name = names.get(value.name, value.name)
        for sparse in part.sparse_initializer:
            sparse.values.name = names.get(sparse.values.name, sparse.values.name)


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every value's name, at any depth."""
    found: set[str] = set()
    for part in graphs(graph):
        found.update(v.name for v in (*part.input, *part.output, *part.initializer))
        for node in part.node:
            found.update((*node.input, *node.output))
    return found


def free_name(graph: onnx.GraphProto, wanted: str) -> str:
    """``wanted``, or the same with a number, whatever is not taken."""
    taken = all_names(graph)
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; above 2 GB its weights go to ``weights.bin`` beside it."""
    import onnx

    large = model.ByteSize() > EMBED_BYTES
    onnx.save(model, path, save_as_external_data=large, location="weights.bin")
    if large:
        onnx.load_external_data_for_model(model, str(path.parent))
