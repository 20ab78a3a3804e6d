"""Parameters of an ONNX model, however its exporter stored them.

onnx is imported when a function is called, never when this module is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.nets.onnx_graph import (
    MOVES,
    WEIGHT_INPUTS,
    attribute,
    constants,
    graphs,
    is_float,
    layer_weights,
    numbers,
    producers,
    trace,
)

if TYPE_CHECKING:
    import onnx

# Integer operators: where their weights and biases are.
INTEGER_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (1, 4),
    "DynamicQuantizeLSTM": (1, 2, 3),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QLinearAdd": (0, 3),
    "QLinearMul": (0, 3),
    "QGemm": (3, 6),
    "QAttention": (1, 2),
    "QEmbedLayerNormalization": (2, 3, 4, 5, 6),
}
# Inputs that are no parameters of the network: scales, zero points, running statistics, factors.
SCALES: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),
    "Resize": (1, 2),
    "Upsample": (1,),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "DynamicQuantizeMatMul": (2, 3),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QAttention": (3, 4, 6, 7),
    "QEmbedLayerNormalization": tuple(range(8, 18)),
    "MatMulNBits": (2, 3),
}


@dataclass(frozen=True)
class Counted:
    """Parameters of an ONNX model.

    Attributes:
        parameters: All of them.
        nonzero: Those that are not zero, or not the zero point.
        layers: Those of convolutions, products, recurrent layers that are floating-point
            constants of the main graph.
    """

    parameters: int
    nonzero: int
    layers: int


def count_parameters(model: onnx.ModelProto) -> Counted:
    """Count a model's parameters, however its exporter stored them.

    Floating-point constants with a shape (initializers and ``Constant`` nodes, also in If and Loop
    bodies), and the integer ones that are weights or biases: behind DequantizeLinear or Cast, or
    given to an integer operator. Scales and zero points are no parameters.

    Args:
        model: With its external data loaded.
    """
    import onnx

    total = nonzero = 0
    for part in graphs(model.graph):
        known, made_by = constants(part), producers(part)
        scales, zero_points, integers = _quantization(part, known, made_by)
        for name, tensor in known.items():
            if name in scales or (not tensor.dims and name not in integers):
                continue
            if not is_float(tensor) and name not in integers:
                continue
            values = onnx.numpy_helper.to_array(tensor)
            if not is_float(tensor):
                zero = known.get(zero_points.get(name, ""))
                values = _centred(values, zero)
            total += values.size
            nonzero += int(np.count_nonzero(values))
        for node in part.node:
            if node.op_type == "MatMulNBits":
                size = attribute(node, "N", 0) * attribute(node, "K", 0)
                total, nonzero = total + size, nonzero + size
    known = constants(model.graph)
    layers = sum(
        numbers(known[name]) for name in layer_weights(model.graph) if is_float(known[name])
    )
    return Counted(total, nonzero, layers)


def _centred(values: npt.NDArray[Any], zero: onnx.TensorProto | None) -> npt.NDArray[Any]:
    """Integer weights minus their zero point, where it is one number."""
    import onnx

    if zero is None or numbers(zero) != 1:
        return values
    point = int(onnx.numpy_helper.to_array(zero).ravel()[0])
    centred: npt.NDArray[Any] = values.astype(np.int64) - point
    return centred


def _quantization(
    graph: onnx.GraphProto,
    known: Mapping[str, onnx.TensorProto],
    made_by: Mapping[str, onnx.NodeProto],
) -> tuple[set[str], dict[str, str], set[str]]:
    """Scales and zero points; the zero point of each weight; constants that are integer weights."""
    scales: set[str] = set()
    zero_points: dict[str, str] = {}
    integers: set[str] = set()
    for node in graph.node:
        scales.update(node.input[i] for i in SCALES.get(node.op_type, ()) if i < len(node.input))
        if node.op_type == "DequantizeLinear":
            name = trace(node.input[0], made_by)
            integers.add(name)
            if len(node.input) > 2:
                zero_points[name] = node.input[2]
        for i in INTEGER_WEIGHTS.get(node.op_type, ()):
            if i < len(node.input):
                integers.add(trace(node.input[i], made_by))
        if node.op_type == "Mul":  # of two scales, where activations are quantized as they come
            origins = [made_by.get(name) for name in node.input]
            for name, other in zip(node.input, origins[::-1], strict=True):
                if other is not None and other.op_type == "DynamicQuantizeLinear":
                    scales.add(name)
        if node.op_type in WEIGHT_INPUTS:
            for i in WEIGHT_INPUTS[node.op_type]:
                if i < len(node.input):
                    integers.add(_behind_arithmetic(node.input[i], made_by))
    return scales, zero_points, {n for n in integers if n in known and n not in scales}


def _behind_arithmetic(name: str, made_by: Mapping[str, onnx.NodeProto]) -> str:
    """Walk back through a weight's own de-quantization: Cast, Sub zero point, Mul scale."""
    return trace(name, made_by, (*MOVES, "Mul", "Sub", "Div"))
