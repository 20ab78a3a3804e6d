"""Cut an ONNX graph into blocks that may be quantized or left in float, one after the other.

A cut is where a single value holds all that the rest of the network needs. Between two cuts lies a
convolution with its activation, or a whole residual block with its squeeze-and-excite gate. What
has no product of its own belongs to the block before it, and a depthwise convolution to the
projection behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Block:
    """Neighbouring nodes of a graph.

    Attributes:
        name: Of its first weights, or its first node.
        nodes: Names, in the graph's order.
        products: How many are convolutions, matrix products or recurrent layers with weights.
    """

    name: str
    nodes: tuple[str, ...]
    products: int


def name_nodes(model: onnx.ModelProto) -> int:
    """Give every node a name of its own, in place: the quantizer leaves nodes out by name.

    Returns:
        How many names are new.
    """
    changed = 0
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}_{node.output[0]}"
            changed += 1
        taken.add(node.name)
    return changed


def cut(model: onnx.ModelProto) -> list[Block]:
    """The blocks of a model, in order; every node that depends on an input is in one.

    Args:
        model: With named nodes, in topological order.
    """
    segments = _merged(_segments(model), model)
    return [_block(nodes, model) for nodes in segments]


def coarser(blocks: Sequence[Block], most: int) -> list[Block]:
    """Fewer blocks: the two neighbours with the fewest products together become one, and again.

    Args:
        blocks: In order.
        most: How many are wanted, at most.
    """
    merged = list(blocks)
    while len(merged) > max(most, 1):
        pairs = list(pairwise(merged))
        place = min(range(len(pairs)), key=lambda i: sum(block.products for block in pairs[i]))
        first, second = pairs[place]
        both = Block(first.name, (*first.nodes, *second.nodes), first.products + second.products)
        merged[place : place + 2] = [both]
    return merged


def cuts(graph: onnx.GraphProto) -> list[tuple[int, str]]:
    """Where one value alone is still to be read: after how many nodes, and its name.

    Args:
        graph: In topological order.
    """
    known = onnx_graph.constants(graph)
    left = onnx_graph.used_names(graph)
    live = {value.name for value in graph.input if value.name not in known}
    moving = set(live)
    found: list[tuple[int, str]] = []
    for place, node in enumerate(graph.node):
        read = [*node.input, *(name for name in _read_inside(node))]
        left.subtract(name for name in read if name)
        if moving.isdisjoint(read):
            continue
        moving.update(name for name in node.output if name)
        live.update(name for name in node.output if name)
        live = {name for name in live if left[name] > 0}
        if len(live) == 1:
            found.append((place + 1, *live))
    return found


def _read_inside(node: onnx.NodeProto) -> list[str]:
    """What the bodies of an If or Loop node read."""
    return [
        name
        for body in onnx_graph.bodies(node)
        for part in onnx_graph.graphs(body)
        for inner in part.node
        for name in inner.input
    ]


def _segments(model: onnx.ModelProto) -> list[list[onnx.NodeProto]]:
    """Nodes between the cuts, without those that depend on no input."""
    graph = model.graph
    known = onnx_graph.constants(graph)
    moving = {value.name for value in graph.input if value.name not in known}
    ends = {place for place, _ in cuts(graph)}
    segments: list[list[onnx.NodeProto]] = [[]]
    for place, node in enumerate(graph.node):
        if not moving.isdisjoint((*node.input, *_read_inside(node))):
            moving.update(name for name in node.output if name)
            segments[-1].append(node)
        if place + 1 in ends:
            segments.append([])
    return [segment for segment in segments if segment]


def _merged(
    segments: Sequence[list[onnx.NodeProto]], model: onnx.ModelProto
) -> list[list[onnx.NodeProto]]:
    """Activations go to the block before them, depthwise convolutions to the one behind."""
    weights = set(onnx_graph.layer_weights(model.graph))
    merged: list[list[onnx.NodeProto]] = []
    joins = False
    for segment in segments:
        products = [node for node in segment if _is_product(node, model, weights)]
        if merged and (joins or not products):
            merged[-1].extend(segment)
        else:
            merged.append(list(segment))
        if products:
            joins = all(_is_depthwise(node) for node in products)
        elif len(merged) == 1 and not any(_is_product(n, model, weights) for n in merged[0]):
            joins = True
    return merged


def _is_product(node: onnx.NodeProto, model: onnx.ModelProto, weights: set[str]) -> bool:
    made_by = onnx_graph.producers(model.graph)
    return node.op_type in onnx_graph.WEIGHT_INPUTS and any(
        onnx_graph.trace(name, made_by) in weights for name in node.input
    )


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and int(onnx_graph.attribute(node, "group", 1)) > 1


def _block(nodes: Sequence[onnx.NodeProto], model: onnx.ModelProto) -> Block:
    weights = set(onnx_graph.layer_weights(model.graph))
    products = [node for node in nodes if _is_product(node, model, weights)]
    first = products[0] if products else nodes[0]
    held = [name for name in first.input if name in weights]
    name = held[0].removesuffix(".weight") if held else first.name
    return Block(name, tuple(node.name for node in nodes), len(products))
