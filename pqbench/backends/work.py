"""Multiply-accumulates of the operators that a runtime executes, from their shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Shape = Sequence[int]


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product as it was executed.

    Attributes:
        kind: ``convolution``, ``transposed``, ``matmul``, ``recurrent``, ``attention``; any other
            is work that is not known.
        inputs: Shapes of its operands, the activations first, then weights.
        output: Shape of what it gives.
        integer: Whether its kernel computes in integers.
    """

    kind: str
    inputs: Sequence[Shape]
    output: Shape
    integer: bool


def _convolution(inputs: Sequence[Shape], output: Shape) -> float:
    weights = inputs[1]
    channels = weights[0] * (weights[1] if len(weights) > len(output) else 1)  # groups apart
    return math.prod(output) * math.prod(weights) / channels


def _transposed(inputs: Sequence[Shape], output: Shape) -> float:  # noqa: ARG001
    return math.prod(inputs[0]) * math.prod(inputs[1]) / inputs[1][0]


def _matmul(inputs: Sequence[Shape], output: Shape) -> float:
    return float(math.prod(output) * inputs[0][-1])


def _recurrent(inputs: Sequence[Shape], output: Shape) -> float:  # noqa: ARG001
    """Every weight works once for each of ``inputs[0]``'s leading two sizes, time and batch."""
    return float(math.prod(inputs[0][:2]) * sum(math.prod(w) for w in inputs[1:]))


def _attention(inputs: Sequence[Shape], output: Shape) -> float:
    """Queries by keys, and their weights by values: each an output element times the keys."""
    keys = inputs[1] if len(inputs) > 1 else inputs[0]
    return 2.0 * math.prod(output) * keys[-2]


_COUNTERS: Mapping[str, Callable[[Sequence[Shape], Shape], float]] = {
    "convolution": _convolution,
    "transposed": _transposed,
    "matmul": _matmul,
    "recurrent": _recurrent,
    "attention": _attention,
}


def macs(product: Product) -> float | None:
    """Multiply-accumulates of one operator; None where its kind or a shape is not known."""
    count = _COUNTERS.get(product.kind)
    needed = 1 if product.kind in ("matmul", "attention") else 2
    known = len(product.inputs) >= needed and all(product.inputs) and bool(product.output)
    return count(product.inputs, product.output) if count and known else None


def integer_share(products: Sequence[Product]) -> float | None:
    """Share, 0..1, of the multiply-accumulates that integer kernels do.

    None where there is no product, or where the work of one is not known.
    """
    found = [(macs(product), product.integer) for product in products]
    known = [(work, integer) for work, integer in found if work is not None]
    total = sum(work for work, _ in known)
    if len(known) < len(found) or total <= 0:
        return None
    return sum(work for work, integer in known if integer) / total
