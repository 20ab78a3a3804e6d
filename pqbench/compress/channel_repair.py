"""Weights that read the remaining channels, fitted to what the whole network computed.

He, Zhang and Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"
(https://arxiv.org/abs/1707.06168), section 3.1: least squares from the pruned layer's inputs to the
whole layer's outputs, layer after layer with the repairs before it in place. Here the squares of
the change are a part of the loss (ridge), so that few images do not overfit; how much they weigh is
chosen on a quarter of the images that the fit has not seen, and a layer that no fit improves there
gets another bias at most. Of a depthwise convolution each channel is fitted by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.compress.bias_correction import opened, part
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.onnx_channels import Channels

if TYPE_CHECKING:
    import onnx

Feeds = Sequence[Mapping[str, npt.NDArray[Any]]]
Matrix = npt.NDArray[np.float64]
PLACES = 16  # of a feature map that are taken of each image
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean squared singular value
CHANNELS_AT_ONCE = 64


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels of which some were removed."""

    node: onnx.NodeProto
    made: npt.NDArray[np.int64]  # its own channels that stay
    depthwise: bool = False


def repair(
    whole: onnx.ModelProto,
    pruned: onnx.ModelProto,
    channels: Channels,
    kept: Mapping[int, npt.NDArray[np.int64]],
    feeds: Feeds,
    threads: int,
) -> dict[str, Any]:
    """Fit the layers of the pruned model in place, in the graph's order.

    Args:
        whole: The model before.
        pruned: The same without some channels.
        channels: Groups of ``whole``.
        kept: Channels that stay, by group.
        feeds: Inputs of one sample each.
        threads: Of ONNX Runtime.

    Returns:
        For the lineage: layers fitted, images, and the mean share of the error, on the images held
        back, that the fits took away.
    """
    readers = _readers(whole, channels, kept)
    rng = np.random.default_rng(0)
    gains = [_fit(whole, pruned, reader, feeds, threads, rng) for reader in readers]
    return {
        "repaired_layers": len(readers),
        "repair_images": len(feeds),
        "repair_error_removed": float(np.mean(gains)) if gains else None,
    }


def _readers(
    whole: onnx.ModelProto, channels: Channels, kept: Mapping[int, npt.NDArray[np.int64]]
) -> list[Reader]:
    found = []
    wide = set(channels.depthwise)
    for node in whole.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        if onnx_graph.attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            continue  # the place of each patch would have to be found first
        if (
            onnx_graph.attribute(node, "alpha", 1.0) != 1.0
            or onnx_graph.attribute(node, "beta", 1.0) != 1.0
        ):
            continue
        read, made = (channels.layouts.get(name) for name in (node.input[0], node.output[0]))
        touched = read is not None and any(channels.root(s.group) in kept for s in read)
        if touched and made is not None:
            depthwise = node.output[0] in wide
            found.append(Reader(node, channels.places(made, kept), depthwise))
    return found


def _fit(
    whole: onnx.ModelProto,
    pruned: onnx.ModelProto,
    reader: Reader,
    feeds: Feeds,
    threads: int,
    rng: np.random.Generator,
) -> float:
    """Fit one layer; the share of the error that went, on the images held back."""
    from onnx import numpy_helper

    node = next(n for n in pruned.graph.node if n.output[0] == reader.node.output[0])
    known = onnx_graph.constants(pruned.graph)
    weight = numpy_helper.to_array(known[node.input[1]])
    read, made = node.input[0], node.output[0]
    rows, errors, owners = [], [], []
    both = zip(
        _values(pruned, [read, made], feeds, threads),
        _values(whole, [made], feeds, threads),
        strict=True,
    )
    for image, ((x, y), (truth,)) in enumerate(both):
        error = np.take(truth, reader.made, axis=1).astype(np.float64) - y
        if node.op_type == "Conv":
            shape = error.shape[2:]
            count = math.prod(shape)
            most = PLACES // 2 if reader.depthwise else PLACES
            places = rng.choice(count, min(most, count), replace=False)
            rows.append(_patches(node, weight, x, places, shape))
            errors.append(error[0].reshape(error.shape[1], -1)[:, places].T)
        else:
            rows.append(x.reshape(len(x), -1).astype(np.float64))
            errors.append(error.reshape(len(error), -1))
        owners.append(np.full(len(errors[-1]), image))
    solve = ridge_each if reader.depthwise else ridge
    change, shift, gain = solve(
        np.concatenate(rows), np.concatenate(errors), np.concatenate(owners) % 4 == 0
    )
    _add(pruned, node, weight, change, shift)
    return gain


def _values(
    model: onnx.ModelProto, names: Sequence[str], feeds: Feeds, threads: int
) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Values inside a graph for each sample."""
    inside = [name for name in names if name not in feeds[0]]
    session = opened(part(model, list(feeds[0]), inside), threads)
    read = {value.name for value in session.get_inputs()}
    for feed in feeds:
        given = dict(feed)
        found = session.run(inside, {k: v for k, v in given.items() if k in read})
        given.update(zip(inside, found, strict=True))
        yield [given[name] for name in names]


def _patches(
    node: onnx.NodeProto,
    weight: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    places: npt.NDArray[np.int64],
    shape: Sequence[int],
) -> Matrix:
    """What a convolution reads at some places of its output: (places, Cin * size of the kernel).

    Args:
        node: The convolution, of any number of axes.
        weight: (Cout, Cin, kernel).
        x: What it reads, one sample.
        places: In the output's map, flat.
        shape: Of that map.
    """
    kernel = weight.shape[2:]
    axes = len(kernel)
    pads = onnx_graph.attribute(node, "pads", [0] * 2 * axes)
    strides = onnx_graph.attribute(node, "strides", [1] * axes)
    dilations = onnx_graph.attribute(node, "dilations", [1] * axes)
    padded = np.pad(x[0], ((0, 0), *zip(pads[:axes], pads[axes:], strict=True)))
    found = []
    for place in places:
        starts = np.array(np.unravel_index(place, shape)) * strides
        window = [
            slice(start, start + dilation * (size - 1) + 1, dilation)
            for start, size, dilation in zip(starts, kernel, dilations, strict=True)
        ]
        found.append(padded[(slice(None), *window)].ravel())
    return np.stack(found).astype(np.float64)


def ridge(x: Matrix, errors: Matrix, held: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix, float]:
    """The change of weights and bias that takes most of the errors away on rows held back.

    Args:
        x: What the layer reads, (rows, features).
        errors: What its outputs lack, (rows, outputs).
        held: Rows that the fit does not see.

    Returns:
        Change of the weights (features, outputs), zeros where none helps; of the bias (outputs);
        and the share of the squared error that they take away on the rows held back.
    """
    seen = ~held
    mean_x, mean_e = x[seen].mean(axis=0), errors[seen].mean(axis=0)
    a, b = x[seen] - mean_x, errors[seen] - mean_e
    still = float((errors[held] ** 2).sum())
    best_loss, best = float(((errors[held] - mean_e) ** 2).sum()), None
    # With few rows the kernel of the rows is the smaller matrix to take apart.
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    scale = float((s**2).mean()) or 1.0
    projected = u.T @ b
    tested = (x[held] - mean_x) @ vt.T
    for weight in RIDGES:
        filtered = (s / (s**2 + weight * scale))[:, None] * projected
        loss = float(((errors[held] - mean_e - tested @ filtered) ** 2).sum())
        if loss < best_loss:
            best_loss, best = loss, filtered
    change = np.zeros((x.shape[1], errors.shape[1])) if best is None else vt.T @ best
    if best_loss >= still:  # not even another bias helps
        return np.zeros_like(change), np.zeros_like(mean_e), 0.0
    return change, mean_e - mean_x @ change, 1.0 - best_loss / still if still else 0.0


def ridge_each(
    x: Matrix, errors: Matrix, held: npt.NDArray[np.bool_]
) -> tuple[Matrix, Matrix, float]:
    """As :func:`ridge`, where each output reads features of its own.

    Args:
        x: What the outputs read, (rows, outputs * features).
        errors: What they lack, (rows, outputs).
        held: Rows that the fit does not see.

    Returns:
        As :func:`ridge`; a column without a fit that helps has zeros.
    """
    outputs = errors.shape[1]
    x = x.reshape(len(x), outputs, -1)
    changes, shifts = np.zeros((x.shape[2], outputs)), np.zeros(outputs)
    still = gone = 0.0
    for start in range(0, outputs, CHANNELS_AT_ONCE):
        part = slice(start, start + CHANNELS_AT_ONCE)
        seen, tested = x[~held, part], x[held, part]
        wanted, asked = errors[~held, part], errors[held, part]
        mean_x, mean_e = seen.mean(axis=0), wanted.mean(axis=0)
        seen, tested = seen - mean_x, tested - mean_x
        values, vectors = np.linalg.eigh(np.einsum("nck,ncl->ckl", seen, seen))
        both = np.einsum("ckl,ck->cl", vectors, np.einsum("nck,nc->ck", seen, wanted - mean_e))
        scale = np.maximum(values.mean(axis=1, keepdims=True), np.finfo(float).tiny)
        before = (asked**2).sum(axis=0)
        best = ((asked - mean_e) ** 2).sum(axis=0)
        change = np.zeros((best.size, x.shape[2]))
        for weight in RIDGES:
            fitted = np.einsum("ckl,cl->ck", vectors, both / (values + weight * scale))
            loss = ((asked - mean_e - np.einsum("nck,ck->nc", tested, fitted)) ** 2).sum(axis=0)
            change = np.where((loss < best)[:, None], fitted, change)
            best = np.minimum(best, loss)
        helps = best < before
        changes[:, part] = np.where(helps, change.T, 0.0)
        shifts[part] = np.where(helps, mean_e - (mean_x * change).sum(axis=1), 0.0)
        still += float(before.sum())
        gone += float((before - np.minimum(best, before)).sum())
    return changes, shifts, gone / still if still else 0.0


def _add(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    weight: npt.NDArray[np.float32],
    change: Matrix,
    shift: Matrix,
) -> None:
    """Add a change to a layer's weights and bias; a layer without a bias gets one."""
    from onnx import helper, numpy_helper

    if node.op_type == "Conv":
        delta = change.T.reshape(weight.shape)
    elif node.op_type == "Gemm" and onnx_graph.attribute(node, "transB", 0):
        delta = change.T
    else:
        delta = change
    known = onnx_graph.constants(model.graph)
    known[node.input[1]].CopyFrom(
        numpy_helper.from_array((weight + delta).astype(weight.dtype), node.input[1])
    )
    if node.op_type != "MatMul" and len(node.input) > 2 and node.input[2]:
        bias = numpy_helper.to_array(known[node.input[2]])
        new = (bias + shift.reshape(bias.shape)).astype(bias.dtype) if bias.size > 1 else bias
        known[node.input[2]].CopyFrom(numpy_helper.from_array(new, node.input[2]))
        return
    if node.op_type != "MatMul":
        onnx_constants.add_bias(model.graph, node, shift.astype(weight.dtype))
        return
    name = onnx_graph.free_name(model.graph, f"{node.output[0]}_shift")
    model.graph.initializer.append(numpy_helper.from_array(shift.astype(weight.dtype), name))
    inner = onnx_graph.free_name(model.graph, f"{node.output[0]}_product")
    outer, node.output[0] = node.output[0], inner
    at = next(i for i, n in enumerate(model.graph.node) if n.output and n.output[0] == inner)
    model.graph.node.insert(at + 1, helper.make_node("Add", [inner, name], [outer]))
