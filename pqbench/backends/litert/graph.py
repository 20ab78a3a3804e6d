"""Read what LiteRT runs: who runs each operator, and which products are integer kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pqbench.backends.work import Product, integer_share
from pqbench.core.backend import Placement
from pqbench.nets.litert_net import Node

KINDS = {
    "CONV_2D": "convolution",
    "DEPTHWISE_CONV_2D": "convolution",
    "CONV_3D": "convolution",
    "TRANSPOSE_CONV": "transposed",
    "FULLY_CONNECTED": "matmul",
    "BATCH_MATMUL": "matmul",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "recurrent",
}


def read_nodes(nodes: Sequence[Node], threads: int | None, details: Mapping[str, Any]) -> Placement:
    """Count operators by who runs them.

    A product is an integer kernel where its activations are int8: with float activations and int8
    weights the latter are widened first, or the former are quantized at run time, and LiteRT does
    not tell which.
    """
    where = Counter("xnnpack" if node.delegated else "builtin" for node in nodes)
    products = [node for node in nodes if node.kind in KINDS]
    left = Counter(f"{_who(node)} in f32" for node in products if not is_integer(node))
    return Placement(
        nodes=dict(where),
        precision="f32",
        quantizable=len(products),
        integer=sum(map(is_integer, products)),
        float_reasons=dict(left.most_common()),
        kernels=dict(Counter(_who(node) for node in nodes).most_common()),
        threads=threads,
        details=dict(details),
        int8_macs_share=integer_share([_product(node) for node in products]),
    )


def is_integer(node: Node) -> bool:
    """Whether its activations and its weights are integers."""
    types = node.types[1:3] if node.kind == "TRANSPOSE_CONV" else node.types[:2]
    return all(name in ("int8", "uint8", "int16") for name in types)


def _who(node: Node) -> str:
    quantized = " int8" if node.types and node.types[0] == "int8" else ""
    return f"{'xnnpack' if node.delegated else 'builtin'} {node.kind}{quantized}"


def _product(node: Node) -> Product:
    shapes = list(node.shapes[:2])
    if node.kind == "DEPTHWISE_CONV_2D":  # weights (1, height, width, channels)
        _, height, width, channels = shapes[1]
        shapes[1] = (channels, 1, height, width)
    if node.kind == "TRANSPOSE_CONV":  # output's shape, weights (out, height, width, in), input
        out, height, width, given = node.shapes[1]
        shapes = [node.shapes[2], (given, out, height, width)]
    return Product(KINDS[node.kind], shapes, node.output, is_integer(node))
