"""Convolutions and pools of ONNX, computed by PyTorch: what both share is the padding.

Imported when a file is trained, never before: it imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Given = Sequence[Tensor | None]


@dataclass(frozen=True)
class Attributes:
    """What a node says beside its inputs.

    Attributes:
        values: By name, bytes as text.
        opset: Version of ONNX's own operators in the file.
    """

    values: Mapping[str, Any]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        return self.values.get(name, default)


Operator = Callable[[Attributes, Given], Tensor]


def need(x: Tensor | None) -> Tensor:
    """An input that must be there."""
    if x is None:
        raise ValueError("a needed input is left out")
    return x


def at(given: Given, place: int) -> Tensor | None:
    """An input that may be left out."""
    return given[place] if place < len(given) else None


def whole(x: Tensor | None) -> list[int]:
    """A tensor of sizes, axes or places as a list."""
    return [int(v) for v in need(x).reshape(-1).tolist()]


def _pads(node: Attributes, x: Tensor, window: Sequence[int], strides: Sequence[int],
          dilations: Sequence[int]) -> tuple[list[int], list[int]]:  # fmt: skip
    """Padding before and after each axis of places."""
    places = len(window)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = list(node.get("pads", [0] * (2 * places)))
        return pads[:places], pads[places:]
    if mode == "VALID":
        return [0] * places, [0] * places
    before, after = [], []
    for size, wide, step, apart in zip(x.shape[2:], window, strides, dilations, strict=True):
        reach = (wide - 1) * apart + 1
        total = max(0, (math.ceil(size / step) - 1) * step + reach - size)
        less, more = total // 2, total - total // 2
        before.append(less if mode == "SAME_UPPER" else more)
        after.append(more if mode == "SAME_UPPER" else less)
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Padded with a constant; torch counts the axes from the last."""
    flat = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


def conv(node: Attributes, given: Given) -> Tensor:
    """``Conv``."""
    x, weight = need(given[0]), need(given[1])
    places = weight.ndim - 2
    strides = list(node.get("strides", [1] * places))
    dilations = list(node.get("dilations", [1] * places))
    before, after = _pads(node, x, weight.shape[2:], strides, dilations)
    if before != after:
        x, before = padded(x, before, after), [0] * places
    call: Callable[..., Tensor] = {1: functional.conv1d, 2: functional.conv2d,
                                   3: functional.conv3d}[places]  # fmt: skip
    return call(x, weight, at(given, 2), strides, before, dilations, int(node.get("group", 1)))


def _window(node: Attributes) -> tuple[list[int], list[int], list[int], bool]:
    window = list(node.get("kernel_shape"))
    strides = list(node.get("strides", [1] * len(window)))
    dilations = list(node.get("dilations", [1] * len(window)))
    return window, strides, dilations, bool(node.get("ceil_mode", 0))


def max_pool(node: Attributes, given: Given) -> Tensor:
    """``MaxPool``, its first output."""
    x = need(given[0])
    window, strides, dilations, ceil = _window(node)
    before, after = _pads(node, x, window, strides, dilations)
    if before != after or any(p > w // 2 for p, w in zip(before, window, strict=True)):
        x, before = padded(x, before, after, -math.inf), [0] * len(window)
    call: Callable[..., Tensor] = {1: functional.max_pool1d, 2: functional.max_pool2d,
                                   3: functional.max_pool3d}[len(window)]  # fmt: skip
    return call(x, window, strides, before, dilations, ceil)


def average_pool(node: Attributes, given: Given) -> Tensor:
    """``AveragePool``."""
    x = need(given[0])
    window, strides, dilations, ceil = _window(node)
    if any(d != 1 for d in dilations):
        raise NotImplementedError("dilations of an average pool")
    before, after = _pads(node, x, window, strides, dilations)
    call: Callable[..., Tensor] = {1: functional.avg_pool1d, 2: functional.avg_pool2d,
                                   3: functional.avg_pool3d}[len(window)]  # fmt: skip
    counts = bool(node.get("count_include_pad", 0))
    if before == after and all(p <= w // 2 for p, w in zip(before, window, strict=True)):
        return call(x, window, strides, before, ceil, counts)
    mean = call(padded(x, before, after), window, strides, 0, ceil)
    if counts:
        return mean
    there = call(padded(torch.ones_like(x[:1, :1]), before, after), window, strides, 0, ceil)
    return mean / there
