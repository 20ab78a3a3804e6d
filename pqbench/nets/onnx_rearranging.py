"""Operators of ONNX that move, cut and count values, computed by PyTorch.

Imported when a file is trained, never before: it imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pqbench.nets.onnx_windows import Attributes, Given, Operator, at, need, padded, whole


def _reshape(node: Attributes, given: Given) -> Tensor:
    x, target = need(given[0]), at(given, 1)
    shape = list(node.get("shape", ())) if target is None else whole(target)
    if not node.get("allowzero", 0):
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(tuple(shape))


def _flatten(node: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    axis = int(node.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(node: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    return x.permute(list(node.get("perm", range(x.ndim)[::-1])))


def _axes(node: Attributes, given: Given) -> list[int] | None:
    listed = at(given, 1)
    return node.get("axes") if listed is None else whole(listed)


def _squeeze(node: Attributes, given: Given) -> Tensor:
    x, axes = need(given[0]), _axes(node, given)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(node: Attributes, given: Given) -> Tensor:
    x, axes = need(given[0]), _axes(node, given) or []
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(node: Attributes, given: Given) -> Tensor:
    return torch.cat([need(x) for x in given], dim=int(node.get("axis", 1)))


def _gather(node: Attributes, given: Given) -> Tensor:
    x, places = need(given[0]), need(given[1]).long()
    places = places.to(x.device)
    axis = int(node.get("axis", 0)) % x.ndim
    places = torch.where(places < 0, places + x.shape[axis], places)
    taken = x.index_select(axis, places.reshape(-1))
    return taken.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _slice(node: Attributes, given: Given) -> Tensor:
    x = need(given[0])
    if len(given) > 1:
        starts, ends = whole(given[1]), whole(given[2])
        axes, steps = (None if (v := at(given, i)) is None else whole(v) for i in (3, 4))
    else:
        starts, ends, steps = list(node.get("starts")), list(node.get("ends")), None
        axes = node.get("axes")
    axes = list(range(len(starts))) if axes is None else axes
    for place, (start, end, axis) in enumerate(zip(starts, ends, axes, strict=True)):
        step = 1 if steps is None else steps[place]
        size = x.shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        first, last = (min(max(v + size if v < 0 else v, low), high) for v in (start, end))
        if step > 0:
            index = [slice(None)] * x.ndim
            index[axis] = slice(first, last, step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.arange(first, last, step, device=x.device))
    return x


def _pad(node: Attributes, given: Given) -> Tensor:
    x, listed, constant = need(given[0]), at(given, 1), at(given, 2)
    mode = node.get("mode", "constant")
    pads = list(node.get("pads", ())) if listed is None else whole(listed)
    axes = at(given, 3)
    half = len(pads) // 2
    outer = mode != "constant" and any(pads[:2] + pads[half : half + 2])
    if axes is not None or min(pads) < 0 or outer:
        raise NotImplementedError("padding of named axes, of channels, or by less than nothing")
    if mode == "constant":
        value = float(node.get("value", 0.0)) if constant is None else float(constant)
        return padded(x, pads[:half], pads[half:], value)
    flat = [s for i in range(half - 1, 1, -1) for s in (pads[i], pads[half + i])]
    return functional.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate"}[mode])


TYPES = {
    1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64,
}  # fmt: skip


def _cast(node: Attributes, given: Given) -> Tensor:
    kind = int(node.get("to"))
    if kind not in TYPES:
        raise NotImplementedError(f"a cast to ONNX's type {kind}")
    return need(given[0]).to(TYPES[kind])


def _shape(node: Attributes, given: Given) -> Tensor:
    sizes = list(need(given[0]).shape)[node.get("start", 0) : node.get("end")]
    return torch.tensor(sizes, dtype=torch.int64)


def _expand(_: Attributes, given: Given) -> Tensor:
    x, shape = need(given[0]), whole(given[1])
    # Each size is at least that of the value: 1 keeps it.
    rank = max(x.ndim, len(shape))
    sizes = [1] * (rank - len(shape)) + shape
    own = [1] * (rank - x.ndim) + list(x.shape)
    return x.expand([max(a, b) for a, b in zip(sizes, own, strict=True)])


def _filled(node: Attributes, given: Given) -> Tensor:
    value = node.get("value")
    filler = torch.zeros(1) if value is None else torch.from_numpy(value.copy())
    return filler.reshape(()).expand(whole(given[0])).clone()


REARRANGING: Mapping[str, Operator] = {
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Pad": _pad,
    "Cast": _cast,
    "Shape": _shape,
    "Expand": _expand,
    "ConstantOfShape": _filled,
}
