"""One form for every exporter's file: weights as initializers, constants computed once.

Exporters store weights as ``Constant`` nodes, behind Identity, Transpose, Reshape or Cast, as
inputs with a default, or inside functions. Tools that quantize and prune look for initializers and
find a part of them, or none. What depends on constants alone is computed here once, by ONNX Runtime
itself, and stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.models.onnx.branches import inline_known_branches
from pqbench.models.onnx.load import make_session, run
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
          "Bernoulli")  # fmt: skip
# A dequantized weight would be four times as large, and the file float instead of INT8.
LEFT = (*RANDOM, "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Dropout")
SMALL = 65536  # bytes that a stored constant may add
GROWTH = 1.1


def normalize(model: onnx.ModelProto, name: str, grow: bool) -> dict[str, Any]:
    """Bring a model into the form that tools expect, in place.

    Args:
        model: With external data loaded, after ``load.repair``.
        name: The file's name, for messages.
        grow: Also store what becomes larger by it (weights kept in float16 or as integers that
            the graph casts to float32), for tools that must see float weights.

    Returns:
        What was changed, for the lineage: counts by name; empty if nothing.
    """
    import onnx.inliner

    changes: dict[str, Any] = {}
    if model.functions:
        changes["functions_inlined"] = len(model.functions)
        model.CopyFrom(onnx.inliner.inline_local_functions(model))
    graph = model.graph
    inlined = -1
    while inlined:  # a condition may be known once constants are folded
        moved, folded = _move_constants(graph), _fold(model, name, grow)
        inlined = inline_known_branches(graph)
        counts = {"constant_nodes_moved": moved, "constants_folded": folded}
        for key, count in {**counts, "branches_inlined": inlined}.items():
            if count:
                changes[key] = changes.get(key, 0) + count
    removed = onnx_graph.remove_unused(graph)
    if removed:
        changes["unused_nodes_removed"] = removed
    return changes


def _move_constants(graph: onnx.GraphProto) -> int:
    """Make initializers of ``Constant`` nodes; those that are outputs of the graph stay."""
    outputs = {value.name for value in graph.output}
    kept, moved = [], 0
    for node in graph.node:
        value = onnx_graph.constant_value(node)
        if value is None or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor = type(value)()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        moved += 1
    if moved:
        onnx_graph.replace_nodes(graph, kept)
    return moved


def _foldable(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that depend on constants alone, in order."""
    known = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    found = []
    for node in graph.node:
        names = [name for name in node.input if name]
        if (
            names
            and node.domain in onnx_graph.STANDARD
            and node.op_type not in LEFT
            and "Sequence" not in node.op_type
            and "Optional" not in node.op_type
            and not any(True for _ in onnx_graph.bodies(node))
            and known.issuperset(names)
            and len(node.output) == 1
            and node.output[0] not in outputs
        ):
            found.append(node)
            known.update(node.output)
    return found


def _fold(model: onnx.ModelProto, name: str, grow: bool) -> int:
    """Compute what depends on constants alone and store it; gives the number of nodes saved."""
    import onnx

    graph = model.graph
    nodes = {node.output[0]: node for node in _foldable(graph)}
    if not nodes:
        return 0
    rest = onnx.GraphProto()
    rest.CopyFrom(graph)
    onnx_graph.replace_nodes(rest, [n for n in graph.node if n.output[0] not in nodes])
    outside = onnx_graph.used_names(rest)
    wanted = [output for output in nodes if outside[output]]
    values = _compute(model, list(nodes.values()), wanted, name)
    sizes = {t.name: t for t in graph.initializer}

    def given(leaf: str) -> int:
        """Bytes that are saved with a constant; none where others read it."""
        if outside[leaf]:
            return 0
        tensor = sizes[leaf]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return onnx_graph.numbers(tensor) * (8 if grow else int(kind.itemsize))

    accepted = {
        output: value
        for output, value in zip(wanted, values, strict=True)
        if value.nbytes <= GROWTH * sum(map(given, _leaves(output, nodes))) + SMALL
    }
    before = len(graph.node)
    onnx_graph.replace_nodes(graph, [n for n in graph.node if n.output[0] not in accepted])
    for output, value in accepted.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), output))
    onnx_graph.remove_unused(graph)
    return before - len(graph.node)


def _leaves(name: str, nodes: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The initializers that a foldable value depends on."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in nodes:
            waiting.extend(n for n in nodes[current].input if n)
        else:
            found.add(current)
    return found


def _compute(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], wanted: Sequence[str], name: str
) -> list[npt.NDArray[Any]]:
    """Values of nodes that depend on constants alone, by ONNX Runtime."""
    import onnx

    small = onnx.ModelProto()
    small.ir_version = max(model.ir_version, 4)
    small.opset_import.extend(model.opset_import)
    small.graph.name = "constants"
    small.graph.node.extend(nodes)
    needed = {input_name for node in nodes for input_name in node.input}
    small.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    small.graph.output.extend(onnx.ValueInfoProto(name=output) for output in wanted)
    return list(run(make_session(small, name), {}, name)) if wanted else []
