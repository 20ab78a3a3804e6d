"""Read ONNX Runtime's own files: the graph it optimized, and the profile it wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.backends.work import Product, Shape

if TYPE_CHECKING:
    import onnx

# Operator types of any domain: ONNX, com.microsoft (fused), com.microsoft.nchwc (CPU layout) and
# com.ms.internal.nhwc hold kernels of the same name.
FLOAT_KERNELS = frozenset(
    {
        "Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvTranspose",
        "ConvTransposeWithDynamicPads", "MatMul", "FusedMatMul", "FusedMatMulActivation",
        "TransposeMatMul", "Gemm", "FusedGemm", "GemmFastGelu", "Attention", "MultiHeadAttention",
        "GroupQueryAttention", "PackedAttention", "MatMulNBits", "LSTM", "GRU", "RNN", "Einsum",
    }
)  # fmt: skip
INTEGER_KERNELS = frozenset(
    {
        "QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "ConvInteger",
        "MatMulInteger", "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
        "QAttention", "DynamicQuantizeLSTM", "QOrderedMatMul", "QOrderedAttention",
    }
)  # fmt: skip
# What its work is counted as, and which inputs are its weights.
_KINDS: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger"), ("convolution", 1)
    ),
    "QLinearConv": ("convolution", 3),
    "ConvTranspose": ("transposed", 1),
    "QLinearConvTranspose": ("transposed", 3),
    **dict.fromkeys(
        (
            "MatMul", "FusedMatMul", "FusedMatMulActivation", "TransposeMatMul", "Gemm",
            "FusedGemm", "GemmFastGelu", "MatMulNBits", "QLinearMatMul", "QGemm", "MatMulInteger",
            "MatMulInteger16", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
        ),
        ("matmul",),
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), ("recurrent", 1, 2)),
}  # fmt: skip
AT_RUN_TIME = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Transpose")
PRECISIONS = {1: "f32", 10: "f16", 11: "f64", 16: "bf16"}  # onnx.TensorProto element types


@dataclass(frozen=True)
class GraphFacts:
    """What an optimized graph tells.

    Attributes:
        quantizable: Convolutions, matrix products and what is built of them, float or integer.
        integer: Those that are integer kernels.
        float_reasons: Count of each float kernel, and of (de)quantization left at run time.
        kernels: Count of each operator type, with its domain unless it is ONNX's own.
        precision: Element type that the float kernels give, ``f32``; joined by ``+`` if several.
    """

    quantizable: int
    integer: int
    float_reasons: Mapping[str, int]
    kernels: Mapping[str, int]
    precision: str


def load(path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime wrote after its own optimization, without external weights."""
    import onnx

    return onnx.load(path, load_external_data=False)


def graph_facts(model: onnx.ModelProto) -> GraphFacts:
    """Count the kernels of an optimized graph, those of loop and branch bodies included."""
    nodes = list(_nodes(model.graph))
    types = Counter(node.op_type for node in nodes)
    kernels = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    in_float = {name: count for name, count in types.items() if name in FLOAT_KERNELS}
    integer = sum(count for name, count in types.items() if name in INTEGER_KERNELS)
    reasons = {f"{name} in float": count for name, count in in_float.items()}
    quantized = any("Quantize" in name or "QLinear" in name for name in types)
    if quantized:  # a transpose is only worth telling where a quantized layout made it
        reasons |= {f"{name} at run time": types[name] for name in AT_RUN_TIME if types[name]}
    return GraphFacts(
        quantizable=integer + sum(in_float.values()),
        integer=integer,
        float_reasons=_largest_first(reasons),
        kernels=_largest_first(kernels),
        precision=_precision(model.graph, nodes),
    )


def products(model: onnx.ModelProto, profile: Path) -> list[Product]:
    """Shapes of the convolutions and matrix products that one run executed.

    Args:
        model: The optimized graph, which holds the weights' shapes.
        profile: What ONNX Runtime's profiler wrote of a run of the same session; it holds those of
            activations, but not of weights that were packed.
    """
    events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    ran = {
        e["name"].removesuffix("_kernel_time"): e["args"]
        for e in events
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
    }
    weights = {w.name: list(w.dims) for w in model.graph.initializer}
    found = []
    for node in _nodes(model.graph):
        if node.op_type not in FLOAT_KERNELS | INTEGER_KERNELS:
            continue
        facts = ran.get(node.name, {})
        seen, given = (_shapes(facts.get(f"{side}_type_shape")) for side in ("input", "output"))
        kind, *places = _KINDS.get(node.op_type, (node.op_type,))
        first = _turned(node, seen[0]) if seen else []
        operands: list[Shape] = [
            weights.get(node.input[i], []) for i in places if i < len(node.input)
        ]
        if places and not operands[0] and len(seen) > 1:  # not a constant
            operands = [seen[1]]
        output = given[0] if given else []
        found.append(Product(kind, [first, *operands], output, node.op_type in INTEGER_KERNELS))
    return found


def _shapes(entries: Sequence[Mapping[str, Shape]] | None) -> list[Shape]:
    return [shape for entry in entries or () for shape in entry.values()]


def _turned(node: onnx.NodeProto, shape: Shape) -> Shape:
    """The first operand's shape with the size that is summed over last."""
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return [*shape[:-2], shape[-1], shape[-2]] if turned else shape


def profile_ms(path: Path, skip: int, runs: int) -> dict[str, float]:
    """Milliseconds per run by operator type, from the JSON that ONNX Runtime's profiler wrote.

    Args:
        path: The profile.
        skip: Runs at the start that do not count.
        runs: Runs after them.
    """
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    starts = sorted(e["ts"] for e in events if e.get("name") == "model_run")
    begin = starts[skip]
    total: Counter[str] = Counter()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        if event["ts"] >= begin:
            total[event["args"]["op_name"]] += event["dur"]
    return {name: us / 1000.0 / runs for name, us in total.most_common()}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _precision(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> str:
    """Float types given by the float kernels; by any node if there is no float kernel."""
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {v.name: v.type.tensor_type.elem_type for v in values}

    def floats(chosen: Sequence[onnx.NodeProto]) -> set[str]:
        given = {types.get(name, 0) for node in chosen for name in node.output}
        return {PRECISIONS[t] for t in given if t in PRECISIONS}

    found = floats([n for n in nodes if n.op_type in FLOAT_KERNELS]) or floats(nodes)
    return "+".join(sorted(found)) or "unknown"


def _largest_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
