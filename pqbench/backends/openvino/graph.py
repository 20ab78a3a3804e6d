"""Read a compiled OpenVINO model: where it runs, at what precision, by which kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.backends.work import Product, Shape, integer_share
from pqbench.core.backend import Placement
from pqbench.core.errors import PlacementError

if TYPE_CHECKING:
    import openvino as ov

QUANTIZABLE = frozenset(
    {
        "Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention",
        "MHA", "LSTMCell", "LSTMSequence", "GRUCell", "GRUSequence", "RNNCell", "RNNSeq",
    }
)  # fmt: skip
KINDS = {
    "Convolution": "convolution",
    "Deconvolution": "transposed",
    "FullyConnected": "matmul",
    "MatMul": "matmul",
    "ScaledDotProductAttention": "attention",
    "RNNSeq": "recurrent",
}
INTEGER = frozenset({"i8", "u8", "i4", "u4"})
FLOAT = frozenset({"f32", "f16", "bf16", "f64"})
AT_RUN_TIME = ("FakeQuantize", "Reorder", "Convert")
NOT_EXECUTED = frozenset({"Const", "Input", "Output"})


def check_compiled(compiled: ov.CompiledModel, device: str, precision: str) -> None:
    """Ask a compiled model where and at what precision it runs.

    Raises:
        PlacementError: Not where, or not as, it was asked.
    """
    names = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
    taken = compiled.get_property("INFERENCE_PRECISION_HINT")
    got = str(taken.to_string() if hasattr(taken, "to_string") else taken)
    if got not in (precision, names[precision]):
        raise PlacementError(
            f"asked OpenVINO for {precision}, it took {got}",
            hint="this device lacks the units for that precision; choose another",
        )
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    if devices != [device]:
        raise PlacementError(f"asked OpenVINO for {device}, it took {', '.join(devices)}")


def runtime_layers(compiled: ov.CompiledModel) -> list[tuple[str, str, str]]:
    """Layer type, precision (``f32``, ``u8``) and kernel of each layer that was compiled.

    OpenVINO calls a layer that reads weights stored as float16 ``f16`` although its kernel computes
    in float32; the kernel's name tells.
    """
    layers = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = operation.get_rt_info()
        keys = ("layerType", "runtimePrecision", "primitiveType")
        layers.append(tuple(info[key].astype(str) if key in info else "" for key in keys))
    return [
        (kind, "f32" if kernel.lower().endswith("_f32") else precision.lower(), kernel)
        for kind, precision, kernel in layers
    ]


def products(compiled: ov.CompiledModel) -> list[Product]:
    """Shapes of the convolutions and matrix products that were compiled, integer or not."""
    found = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = operation.get_rt_info()
        kind = info["layerType"].astype(str)
        if kind not in QUANTIZABLE:
            continue
        integer = info["runtimePrecision"].astype(str).lower() in INTEGER
        inputs = [_sizes(port.get_source_output()) for port in operation.inputs()]
        if KINDS.get(kind) == "recurrent":  # data, states, lengths, then weights W, R and the bias
            inputs = [inputs[0], *inputs[-3:-1]]
        found.append(Product(KINDS.get(kind, kind), inputs, _sizes(operation.output(0)), integer))
    return found


def _sizes(output: ov.Output) -> Shape:
    """Its shape; empty where a size is free."""
    shape = output.get_partial_shape()
    return list(shape.to_shape()) if shape.is_static else []


def read_layers(
    layers: Sequence[tuple[str, str, str]],
    device: str,
    precision: str,
    threads: int,
    work: Sequence[Product] = (),
) -> Placement:
    """Turn a runtime graph's layers into a ``Placement``.

    Args:
        layers: Type, precision and kernel of each.
        device: Where they run.
        precision: The floating-point precision in force.
        threads: Of the runtime.
        work: Shapes of the convolutions and matrix products among them.

    Raises:
        PlacementError: A convolution or matrix product runs at a float precision not asked for.
    """
    executed = [layer for layer in layers if layer[0] not in NOT_EXECUTED]
    products = [layer for layer in executed if layer[0] in QUANTIZABLE]
    odd = Counter(f"{k} in {p}" for k, p, _ in products if p in FLOAT - {precision, "f32"})
    if odd:
        raise PlacementError(
            f"asked OpenVINO for {precision}, but it runs {dict(odd)}",
            hint="set the precision that the device has",
        )
    reasons = Counter(f"{k} in {p}" for k, p, _ in products if p not in INTEGER)
    extras = Counter(f"{k} at run time" for k, _, _ in executed if k in AT_RUN_TIME)
    return Placement(
        nodes={device: len(executed)},
        precision=precision,
        quantizable=len(products),
        integer=sum(p in INTEGER for _, p, _ in products),
        float_reasons=dict((reasons + extras).most_common()),
        kernels=dict(Counter(f"{k} {name}".strip() for k, _, name in executed).most_common()),
        threads=threads,
        int8_macs_share=integer_share(work),
    )
