"""Read what MNN ran: operator types, and which of them are integer kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pqbench.core.backend import Placement

FLOAT_PRODUCTS = frozenset(
    {
        "Convolution", "ConvolutionDepthwise", "Convolution3D", "Deconvolution",
        "DeconvolutionDepthwise", "MatMul", "BatchMatMul", "InnerProduct", "LSTM", "RNN", "GRU",
        "Attention",
    }
)  # fmt: skip
# How MNN marks operators of models that its own quantizer made: ``Convolution [ DT_INT8 ]``.
INTEGER_MARK = "[ DT_INT8 ]"
INTEGER_PRODUCTS = frozenset({"ConvInt8", "DepthwiseConvInt8", "MatMulInteger"})


def read_operators(
    kinds: Sequence[str], threads: int | None, details: Mapping[str, Any]
) -> Placement:
    """Count the operators of one run.

    MNN tells neither precision nor, for weights that alone are stored as integers, how a
    convolution multiplies; the session is made for float32 (``precision: high``).

    Args:
        kinds: Type of each operator, in the order in which it ran.
        threads: Threads, read back; None where MNN does not tell.
        details: What else the record says.
    """
    counts = Counter(kind.strip() for kind in kinds)
    left = Counter({kind: n for kind, n in counts.items() if kind in FLOAT_PRODUCTS})
    integer = sum(n for kind, n in counts.items() if _is_integer(kind))
    return Placement(
        nodes={"CPU": len(kinds)},
        precision="f32",
        quantizable=left.total() + integer,
        integer=integer,
        float_reasons={f"{kind} in f32": n for kind, n in left.most_common()},
        kernels=dict(counts.most_common()),
        threads=threads,
        details=dict(details),
    )


def _is_integer(kind: str) -> bool:
    """Whether it is a product that multiplies integers."""
    plain, mark, _ = kind.partition(INTEGER_MARK)
    return kind in INTEGER_PRODUCTS or (bool(mark) and plain.strip() in FLOAT_PRODUCTS)
