"""Rules, operator by operator, of how channels run through an ONNX graph.

The groups themselves are :class:`pqbench.nets.onnx_channels.Channels`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from pqbench.nets import onnx_graph
from pqbench.nets.onnx_channels import Channels, Layout, Segment, Slot

if TYPE_CHECKING:
    import onnx

# Operators whose output has the channels of their first input, each by itself.
SAME = frozenset((
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu"),
    *("Celu", "Softplus", "Softsign", "Mish", "Gelu", "Erf", "ThresholdedRelu", "Swish"),
    *("Identity", "Dropout", "Cast", "Abs", "Neg", "Exp", "Sqrt", "Floor", "Ceil", "Round"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool"),
))  # fmt: skip
# Operators of two values, element by element.
PAIRS = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"))


class Finder:
    """Walks once through a graph in topological order.

    Args:
        model: With inferred shapes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.known = onnx_graph.constants(model.graph)
        self.uses = onnx_graph.used_names(model.graph)
        self.found = Channels()
        self.shapes: dict[str, list[int | None]] = {}
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            if value.type.tensor_type.HasField("shape"):
                self.shapes[value.name] = [
                    d.dim_value if d.HasField("dim_value") else None
                    for d in value.type.tensor_type.shape.dim
                ]

    def run(self) -> Channels:
        """All groups of the graph."""
        found = self.found
        for node in self.graph.node:
            layouts = self._node(node) if node.domain in onnx_graph.STANDARD else None
            if layouts is None:
                for name in node.input:
                    found.fix(found.layouts.get(name))
                for body in onnx_graph.bodies(node):
                    for name in onnx_graph.used_names(body):
                        found.fix(found.layouts.get(name))
            else:
                found.layouts[node.output[0]] = layouts
        for value in self.graph.output:
            found.fix(found.layouts.get(value.name))
        by_tensor: dict[tuple[str, int], list[Slot]] = defaultdict(list)
        for slot in found.slots:
            by_tensor[slot.tensor, slot.axis].append(slot)
        for (name, _), slots in by_tensor.items():
            if len(slots) > 1 or self.uses[name] > 1:  # shared: one cut would hit the other reader
                for slot in slots:
                    found.fix(slot.layout)
        return found

    def _node(self, node: onnx.NodeProto) -> Layout:
        """The channels of a node's output; None where there is no rule."""
        kind = node.op_type
        x = self.found.layouts.get(node.input[0]) if node.input else None
        if kind in SAME:
            return x
        if kind in PAIRS and len(node.input) == 2:
            return self._pair(node)
        rule = RULES.get(kind)
        return None if rule is None else rule(self, node, x)

    def _constant(self, name: str) -> list[int] | None:
        tensor = self.known.get(name)
        return None if tensor is None else list(tensor.dims)

    def _slot(self, tensor: str, axis: int, layout: Layout, makes: bool = False) -> bool:
        """Note where channels are stored; False if the axis has another length."""
        dims = self._constant(tensor)
        if layout is None or dims is None or dims[axis] != self.found.length(layout):
            self.found.fix(layout)
            return False
        self.found.slots.append(Slot(tensor, axis, layout, makes))
        return True

    def _conv(self, node: onnx.NodeProto, x: Layout) -> Layout:
        dims = self._constant(node.input[1])
        groups = onnx_graph.attribute(node, "group", 1)
        if dims is None or (groups > 1 and not (groups == dims[0] and dims[1] == 1)):
            return None
        bias = node.input[2] if len(node.input) > 2 else ""
        if groups > 1:  # depthwise
            if x is None or not self._slot(node.input[1], 0, x):
                return None
            self.found.depthwise.append(node.output[0])
            if bias:
                self._slot(bias, 0, x)
            return x
        return self._layer(node.input[1], 1, 0, bias, x)

    def _layer(self, weight: str, reads: int, makes: int, bias: str, x: Layout) -> Layout:
        """A layer that makes new channels; its input may be one that keeps all."""
        dims = self._constant(weight)
        if dims is None:
            return None
        if x is not None:
            self._slot(weight, reads, x)
        made = self.found.new(dims[makes])
        self._slot(weight, makes, made, makes=True)
        if bias:
            shape = self._constant(bias)
            if shape is None:
                self.found.fix(made)
            elif math.prod(shape) > 1:
                self._slot(bias, len(shape) - 1, made)
        return made

    def _gemm(self, node: onnx.NodeProto, x: Layout) -> Layout:
        if onnx_graph.attribute(node, "transA", 0):
            return None
        turned = int(onnx_graph.attribute(node, "transB", 0))
        bias = node.input[2] if len(node.input) > 2 else ""
        return self._layer(node.input[1], turned, 1 - turned, bias, x)

    def _matmul(self, node: onnx.NodeProto, x: Layout) -> Layout:
        dims = self._constant(node.input[1])
        if dims is None or len(dims) != 2 or len(self.shapes.get(node.input[0], ())) != 2:
            return None
        return self._layer(node.input[1], 0, 1, "", x)

    def _norm(self, node: onnx.NodeProto, x: Layout) -> Layout:
        for name in node.input[1:]:
            self._slot(name, 0, x)
        return x

    def _prelu(self, node: onnx.NodeProto, x: Layout) -> Layout:
        return self._with_constant(node.input[0], node.input[1], x)

    def _pad(self, node: onnx.NodeProto, x: Layout) -> Layout:
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        same = before and after and before[1] is not None and before[1] == after[1]
        told = len(node.input) < 2 or node.input[1] in self.known  # older ONNX: an attribute
        return x if same and told else None

    def _resize(self, node: onnx.NodeProto, x: Layout) -> Layout:
        # A target size has the channels in it as a number; factors have not.
        sized = node.op_type == "Resize" and len(node.input) > 3 and bool(node.input[3])
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        return x if not sized and before and after and before[1] == after[1] else None

    def _over_places(self, node: onnx.NodeProto, x: Layout) -> Layout:
        rank = len(self.shapes.get(node.input[0], ()))
        axes = self._axes(node)
        return x if rank and axes and all(a % rank >= 2 for a in axes) else None

    def _unsqueeze(self, node: onnx.NodeProto, x: Layout) -> Layout:
        rank = len(self.shapes.get(node.output[0], ()))
        axes = self._axes(node)
        return x if rank and axes and all(a % rank >= 2 for a in axes) else None

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        """The axes of a node: an attribute in older versions of ONNX, an input in newer ones."""
        from onnx import numpy_helper

        given = onnx_graph.attribute(node, "axes")
        if given is not None:
            return [int(axis) for axis in given]
        tensor = self.known.get(node.input[1]) if len(node.input) > 1 else None
        return [] if tensor is None else [int(a) for a in numpy_helper.to_array(tensor).ravel()]

    def _concat(self, node: onnx.NodeProto, _: Layout) -> Layout:
        rank = len(self.shapes.get(node.output[0], ()))
        axis = int(onnx_graph.attribute(node, "axis", 0))
        layouts = [self.found.layouts.get(name) for name in node.input]
        if not rank or axis % rank != 1:
            return None
        joined: list[Segment] = []
        for name, layout in zip(node.input, layouts, strict=True):
            if layout is None:
                size = (self._constant(name) or self.shapes.get(name) or [0, None])[1]
                if not size:
                    return None
                layout = self.found.new(size)
                self.found.fix(layout)
            joined += layout
        return tuple(joined)

    def _flatten(self, node: onnx.NodeProto, x: Layout) -> Layout:
        return self._spread(node, x) if onnx_graph.attribute(node, "axis", 1) == 1 else None

    def _reshape(self, node: onnx.NodeProto, x: Layout) -> Layout:
        """(N, C, ...) to (N, C * ...), or (N, C) to (N, C, 1, ...): channels stay in order."""
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        if x is None or node.input[1] not in self.known or not before or not after:
            return None
        if len(after) == 2:
            layout = self._spread(node, x)
            target = [0, -1]
        elif len(before) == 2 and before[1] == after[1] and all(d == 1 for d in after[2:]):
            layout, target = x, [0, -1, *[1] * (len(after) - 2)]
        else:
            return None
        if layout is not None:
            self.found.reshapes[node.output[0]] = target
        return layout

    def _spread(self, node: onnx.NodeProto, x: Layout) -> Layout:
        """The channels of (N, C, ...) as (N, C * ...)."""
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        if x is None or not before or not after or len(after) != 2:
            return None
        inner = before[2:]
        if any(d is None for d in inner):
            return None
        times = math.prod(d for d in inner if d is not None)
        layout = tuple(Segment(s.group, s.repeat * times) for s in x)
        return layout if self.found.length(layout) == after[1] else None

    def _pair(self, node: onnx.NodeProto) -> Layout:
        first, second = node.input
        for value, constant in ((first, second), (second, first)):
            if constant in self.known and value not in self.known:
                return self._with_constant(value, constant, self.found.layouts.get(value))
        one, other = (self.found.layouts.get(name) for name in node.input)
        a, b = (self.shapes.get(name) for name in node.input)
        if not a or not b or len(a) != len(b):
            return None
        for wide, narrow, layout in ((a, b, one), (b, a, other)):
            if wide[1] != 1 and narrow[1] == 1:  # one channel meets all
                self.found.fix(other if layout is one else one)
                return layout
        return self.found.join(one, other)

    def _with_constant(self, value: str, constant: str, x: Layout) -> Layout:
        """A value and a constant that is broadcast to it."""
        dims, shape = self._constant(constant), self.shapes.get(value)
        if x is None or dims is None or not shape or len(dims) > len(shape):
            return None
        axis = len(dims) - (len(shape) - 1)  # of the constant, where it meets axis 1
        if axis >= 0 and dims[axis] != 1:
            return x if self._slot(constant, axis, x) else None
        return x


RULES: dict[str, Callable[[Finder, onnx.NodeProto, Layout], Layout]] = {
    "Conv": Finder._conv,
    "Gemm": Finder._gemm,
    "MatMul": Finder._matmul,
    "BatchNormalization": Finder._norm,
    "InstanceNormalization": Finder._norm,
    "PRelu": Finder._prelu,
    "Pad": Finder._pad,
    "Resize": Finder._resize,
    "Upsample": Finder._resize,
    "ReduceMean": Finder._over_places,
    "ReduceMax": Finder._over_places,
    "ReduceSum": Finder._over_places,
    "Squeeze": Finder._over_places,
    "Unsqueeze": Finder._unsqueeze,
    "Concat": Finder._concat,
    "Flatten": Finder._flatten,
    "Reshape": Finder._reshape,
}


def find_channels(model: onnx.ModelProto) -> Channels:
    """The groups of channels of a model.

    Args:
        model: In topological order, with inferred shapes.
    """
    return Finder(model).run()
