"""If nodes whose condition is known: the branch that is taken becomes part of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx


def inline_known_branches(graph: onnx.GraphProto) -> int:
    """Put the nodes and weights of the branches that are always taken in the place of their If.

    Tools see no weights in the bodies of If nodes, and ONNX Runtime 1.31 was seen to crash where it
    does this itself.

    Args:
        graph: Changed in place; its If nodes with a constant condition, not those in bodies.

    Returns:
        How many there were.
    """
    import onnx

    known = onnx_graph.constants(graph)
    nodes: list[onnx.NodeProto] = []
    found = 0
    for node in graph.node:
        if node.op_type != "If" or node.input[0] not in known:
            nodes.append(node)
            continue
        taken = bool(onnx.numpy_helper.to_array(known[node.input[0]]).ravel()[0])
        branch = onnx.GraphProto()
        branch.CopyFrom(onnx_graph.attribute(node, "then_branch" if taken else "else_branch"))
        found += 1
        _rename_inner(branch, node.name or f"if_{found}", set(onnx_graph.all_names(graph)))
        graph.initializer.extend(branch.initializer)
        graph.value_info.extend(branch.value_info)
        nodes.extend(branch.node)
        nodes.extend(
            onnx.helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(branch.output, node.output, strict=True)
            if outer
        )
    if found:
        onnx_graph.replace_nodes(graph, nodes)
    return found


def _rename_inner(branch: onnx.GraphProto, prefix: str, taken: set[str]) -> None:
    """Give what a branch makes names that nothing else has; captured values keep theirs."""
    made = [name for node in branch.node for name in node.output if name]
    made += [tensor.name for tensor in branch.initializer]
    names = {}
    for name in made:
        new = f"{prefix}/{name}"
        while new in taken:
            new += "_"
        taken.add(new)
        names[name] = new
    onnx_graph.rename(branch, names)
