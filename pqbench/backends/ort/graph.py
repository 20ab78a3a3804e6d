"""Read ONNX Runtime's own files: the graph it optimized, and the profile it wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def read_graph(path: Path) -> GraphFacts:
    """Count the kernels of the graph that ONNX Runtime wrote after its own optimization."""
    import onnx

    return graph_facts(onnx.load(path, load_external_data=False))


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
