"""Read an ncnn model: its layers, and which of them compute with integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pqbench.core.backend import Placement
from pqbench.nets.ncnn_net import layers

QUANTIZABLE = frozenset(
    {
        "Convolution", "ConvolutionDepthWise", "Convolution1D", "Convolution3D", "Deconvolution",
        "DeconvolutionDepthWise", "InnerProduct", "Gemm", "MatMul", "MultiHeadAttention", "LSTM",
        "GRU", "RNN",
    }
)  # fmt: skip
NOT_EXECUTED = frozenset({"Input", "Split"})  # a split hands out references
INT8_TERM = {
    "InnerProduct": "8", "Convolution": "8", "ConvolutionDepthWise": "8", "LSTM": "8", "GRU": "8",
    "RNN": "8", "MultiHeadAttention": "18", "Gemm": "18",
}  # fmt: skip


def read_layers(param: Path, precision: str, threads: int, details: Mapping[str, Any]) -> Placement:
    """What the graph holds; a layer is an integer one where its scales are in the file.

    Args:
        param: The ``.param`` file.
        precision: Storage of what is not quantized, read back.
        threads: Threads, read back.
        details: What else the record says.
    """
    found = [layer for layer in layers(param) if layer[0] not in NOT_EXECUTED]
    products = [layer for layer in found if layer[0] in QUANTIZABLE]
    integer = [
        kind for kind, keys in products if keys.get(INT8_TERM.get(kind, ""), "0") not in ("0", "")
    ]
    left = Counter(kind for kind, _ in products) - Counter(integer)
    return Placement(
        nodes={"CPU": len(found)},
        precision=precision,
        quantizable=len(products),
        integer=len(integer),
        float_reasons={f"{kind} in {precision}": n for kind, n in left.most_common()},
        kernels=dict(Counter(kind for kind, _ in found).most_common()),
        threads=threads,
        details=dict(details),
    )
