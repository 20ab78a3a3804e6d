"""An ONNX file's graph as a PyTorch module that can be trained, and its weights back in the graph.

The parameters are the graph's own constants, so that what is trained is what is deployed: the file
keeps its graph, node by node. Imported when a file is trained, never before: it imports torch.

BatchNorm that was folded into convolutions stays folded. Put back for the training alone, set so
that it changes nothing, it made the first 18 steps worse: SqueezeNet 1.1 without a quarter of its
channels reached 46 instead of 69 % of 200 Imagenette images, EfficientNet-Lite0 16 instead of 35 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pqbench.core.errors import UnsupportedError
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.onnx_norms import NORM, Norm
from pqbench.nets.onnx_operators import OPERATORS, log_softmax
from pqbench.nets.onnx_windows import Attributes, whole

if TYPE_CHECKING:
    import onnx

# Inputs that hold what is learnt, by operator. Of Add and Mul constants of one number are none:
# they belong to activations written out (the 3 and the 6 of hard-swish).
LEARNT: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
}
SPLIT = "Split"
# Operators that pass scores on as they are; logarithms may be taken before them.
PASSING = (*onnx_graph.MOVES, "Gather", "Slice")


@dataclass(frozen=True)
class Call:
    """One node.

    Attributes:
        kind: Its operator.
        attributes: What it says beside its inputs.
        inputs: Names; empty where one is left out.
        outputs: Names.
        last: Inputs that no later node reads.
    """

    kind: str
    attributes: Attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last: tuple[str, ...]


class OnnxModule(nn.Module):
    """The graph of a float classifier as a module.

    Args:
        model: Weights in float32; its first output is what ``forward`` gives.
        batch: The number of samples that the file is made for; None: any. The module takes any.

    Attributes:
        as_file: ``forward`` gives what the file gives. Otherwise a softmax at the end gives
            logarithms of probabilities, which training takes like logits.

    Raises:
        UnsupportedError: An operator has no rule here; the message names it.
    """

    def __init__(self, model: onnx.ModelProto, batch: int | None = None) -> None:
        from onnx import numpy_helper

        super().__init__()
        graph = model.graph
        _refuse_unknown(graph)
        self.as_file = False
        known = onnx_graph.constants(graph)
        self.inputs = [v.name for v in graph.input if v.name not in known]
        self.output = graph.output[0].name
        self.softmax = _last_softmax(graph)
        self.names = learnt_names(graph)
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in known.items()}
        norms = [node for node in graph.node if node.op_type == NORM]
        self.weights = nn.ParameterList(torch.from_numpy(arrays[n].copy()) for n in self.names)
        self.norm_names = {node.output[0]: tuple(node.input[1:5]) for node in norms}
        self.norms = nn.ModuleList(Norm(node, arrays) for node in norms)
        taken = {*self.names, *(name for four in self.norm_names.values() for name in four)}
        self.numbers: dict[str, Tensor] = {}
        self.floats: dict[str, int] = {}
        for name, array in arrays.items():
            if name in taken:
                continue
            value = torch.from_numpy(np.array(array))
            if value.is_floating_point() and value.ndim:
                self.floats[name] = len(self.floats)
                self.register_buffer(f"fixed_{self.floats[name]}", value, persistent=False)
            else:  # sizes, axes and bounds stay on the CPU: they are read as numbers
                self.numbers[name] = value
        if batch is not None:
            self._free_batch(graph, batch)
        self.calls = _calls(model, known)

    def _free_batch(self, graph: onnx.GraphProto, batch: int) -> None:
        """Let reshapes that name the file's own number of samples take that of their input."""
        for node in graph.node:
            target = self.numbers.get(node.input[1]) if node.op_type == "Reshape" else None
            if target is not None and len(target) > 1 and int(target[0]) == batch:
                target[0] = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        """The graph's first output, (n, classes, ...).

        Args:
            inputs: The graph's inputs, in its order.
        """
        values = dict(zip(self.inputs, inputs, strict=True))
        places = {name: place for place, name in enumerate(self.names)}
        norms = {name: place for place, name in enumerate(self.norm_names)}
        for call in self.calls:
            given = [self._value(name, values, places) for name in call.inputs]
            name = call.outputs[0]
            if call.kind == NORM:
                values[name] = self.norms[norms[name]](given[0])
            elif call.kind == SPLIT:
                parts = _split(call, given)
                values.update(zip(call.outputs, parts, strict=True))
            elif name == self.softmax and not self.as_file:
                values[name] = log_softmax(call.attributes, given)
            else:
                values[name] = OPERATORS[call.kind](call.attributes, given)
            for gone in call.last:
                values.pop(gone, None)
        result: Tensor = values[self.output]
        return result

    def _value(
        self, name: str, values: Mapping[str, Tensor], places: Mapping[str, int]
    ) -> Tensor | None:
        if not name:
            return None
        if name in values:
            return values[name]
        if name in places:
            weight: Tensor = self.weights[places[name]]
            return weight
        if name in self.floats:
            buffer: Tensor = getattr(self, f"fixed_{self.floats[name]}")
            return buffer
        return self.numbers.get(name)

    def written(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of a model whose constants are this module's.

        Args:
            model: The model that the module was made of.
        """
        copy = type(model)()
        copy.CopyFrom(model)
        values = {
            name: weight.detach().cpu().contiguous().numpy()
            for name, weight in zip(self.names, self.weights, strict=True)
        }
        for norm, names in zip(self.norms, self.norm_names.values(), strict=True):
            parts = norm.parts() if isinstance(norm, Norm) else ()
            values.update(
                (name, part.detach().cpu().numpy()) for name, part in zip(names, parts, strict=True)
            )
        onnx_constants.put(copy.graph, values)
        return copy


def learnt_names(graph: onnx.GraphProto) -> list[str]:
    """Constants that training changes, each once, in the graph's order."""
    known, made_by = onnx_graph.constants(graph), onnx_graph.producers(graph)
    found = []
    for node in graph.node:
        for place in LEARNT.get(node.op_type, ()):
            if place < len(node.input):
                name = onnx_graph.trace(node.input[place], made_by)
                tensor = known.get(name)
                if tensor is not None and onnx_graph.is_float(tensor) and tensor.dims:
                    one = onnx_graph.numbers(tensor) == 1 and node.op_type in ("Add", "Mul")
                    found += [] if one else [name]
    return list(dict.fromkeys(found))


def _refuse_unknown(graph: onnx.GraphProto) -> None:
    odd = sorted({
        node.op_type if node.domain in onnx_graph.STANDARD else f"{node.domain}.{node.op_type}"
        for node in graph.node
        if node.domain not in onnx_graph.STANDARD
        or node.op_type not in {*OPERATORS, NORM, SPLIT, "Constant"}
    })  # fmt: skip
    if odd:
        raise UnsupportedError(
            f"this ONNX file cannot be trained: there is no rule for its operator "
            f"{', '.join(odd)} in PyTorch",
            hint="train the network before it is exported, or leave the training out of the recipe",
        )


def _last_softmax(graph: onnx.GraphProto) -> str:
    """Name of what a softmax at the end gives; empty without one."""
    made_by = onnx_graph.producers(graph)
    name = onnx_graph.trace(graph.output[0].name, made_by, PASSING)
    node = made_by.get(name)
    return name if node is not None and node.op_type == "Softmax" else ""


def _calls(model: onnx.ModelProto, known: Mapping[str, onnx.TensorProto]) -> list[Call]:
    import onnx

    opset = next(o.version for o in model.opset_import if o.domain in onnx_graph.STANDARD)
    nodes = [n for n in model.graph.node if n.op_type != "Constant"]
    kept = {value.name for value in model.graph.output}
    reads: dict[str, int] = {}
    for place, node in enumerate(nodes):
        reads.update(dict.fromkeys(node.input, place))
    calls = []
    for place, node in enumerate(nodes):
        values: dict[str, Any] = {}
        for entry in node.attribute:
            value = onnx.helper.get_attribute_value(entry)
            if isinstance(value, bytes):
                value = value.decode()
            elif isinstance(value, onnx.TensorProto):
                value = onnx.numpy_helper.to_array(value)
            values[entry.name] = value
        last = {n for n in node.input if reads[n] == place and n not in kept and n not in known}
        calls.append(
            Call(
                node.op_type,
                Attributes(values, opset),
                tuple(node.input),
                tuple(node.output),
                tuple(sorted(last)),
            )
        )
    return calls


def _split(call: Call, given: Sequence[Tensor | None]) -> Sequence[Tensor]:
    x, node = given[0], call.attributes
    if x is None:
        raise ValueError("Split without an input")
    axis = int(node.get("axis", 0))
    sizes = whole(given[1]) if len(given) > 1 and given[1] is not None else node.get("split")
    if sizes is None:
        return x.chunk(len(call.outputs), dim=axis)
    return torch.split_with_sizes(x, list(sizes), dim=axis)
