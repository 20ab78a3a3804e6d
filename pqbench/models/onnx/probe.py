"""Is a file a function of its input? It is run twice, and at two batch sizes, before any timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import UnsupportedError
from pqbench.models.onnx.load import Batch, run
from pqbench.models.onnx.normalize import RANDOM
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-3  # of an output's range
OTHER_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Observed:
    """What a file does with some real samples.

    Attributes:
        values: Tensor outputs that have one row per sample, by name; (n, ...).
        others: Outputs without such rows: sequences, scalars, data-dependent sizes.
        batch: The batch that the file is fixed to, declared or found by trying; None if free.
        random: Outputs change from run to run.
        notes: What a reader of the results must know.
        lost_rows: Outputs that lose the axis of samples at batch 1 (Squeeze of every size of 1).
    """

    values: Mapping[str, npt.NDArray[Any]]
    others: tuple[str, ...]
    batch: int | None
    random: bool = False
    notes: tuple[str, ...] = field(default=())
    lost_rows: tuple[str, ...] = field(default=())


def fit_batch(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """As many samples as a batch is fixed to, repeated if there are fewer."""
    return array if len(array) == size else np.resize(array, (size, *array.shape[1:]))


def observe(
    session: Any,
    model: onnx.ModelProto,
    specs: Sequence[TensorSpec],
    example: Batch,
    given: Mapping[str, str],
    name: str,
) -> Observed:
    """Run a file on some samples.

    Args:
        session: ONNX Runtime's, of the file as it was given.
        model: Its graph.
        specs: The inputs; the first size is a number where the batch is fixed.
        example: At least 3 samples of each input, (n, ...).
        given: The file's own name of each input.
        name: The file's name, for messages.

    Raises:
        UnsupportedError: ONNX Runtime cannot run it on these samples, at any batch size tried.
    """
    fixed = specs[0].shape[0]
    notes = []
    count = fixed or len(next(iter(example.values())))

    def once(feed: Batch, size: int) -> list[Any]:
        inner = {given[k]: fit_batch(v, size) for k, v in feed.items()}
        return run(session, inner, name)

    outputs = [value.name for value in session.get_outputs()]
    try:
        got = once(example, count)
        fits = any(_rows(value, count) for value in got)
    except UnsupportedError:
        if fixed is not None:
            raise
        fits = False
    if not fits and fixed is None:
        fixed = _batch_that_runs(once, example, count)
        notes.append(
            f"{name} declares a free batch and runs at batch {fixed} alone: it was fixed to that"
        )
        count = fixed
        got = once(example, count)
    rows = {n: v for n, v in zip(outputs, got, strict=True) if _rows(v, count)}
    others = tuple(n for n in outputs if n not in rows)
    again = dict(zip(outputs, once(example, count), strict=True))
    lost: list[str] = []
    random = any(_differ(value, again[n]) for n, value in rows.items())
    if random:
        notes.append(
            f"outputs change from run to run on the same input{_names(random_nodes(model))}: "
            "accuracy, agreement and parity are those of one draw"
        )
    elif fixed is None and count > 1:
        one = dict(zip(outputs, once({k: v[:1] for k, v in example.items()}, 1), strict=True))
        lost = [n for n, value in rows.items() if np.shape(one[n]) == value.shape[1:]]
        one.update({n: one[n][None] for n in lost})
        if any(_differ(value[:1], one[n], value) for n, value in rows.items() if _rows(one[n], 1)):
            notes.append(
                f"outputs depend on what else is in the batch{_names(batch_nodes(model))}: "
                "accuracy and parity do too"
            )
    return Observed(rows, others, fixed, random, tuple(notes), tuple(lost))


def _rows(value: Any, count: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim > 0 and len(value) == count


def _batch_that_runs(once: Any, example: Batch, tried: int) -> int:
    """The first batch size at which the file runs and gives one row per sample.

    Raises:
        UnsupportedError: There is none; the error of batch 1.
    """
    first: UnsupportedError | None = None
    for size in OTHER_BATCHES:
        if size == tried:
            continue
        try:
            if any(_rows(value, size) for value in once(example, size)):
                return size
        except UnsupportedError as error:
            first = first or error
    raise first or UnsupportedError(
        "no output of the model has one row per sample",
        hint="a classifier gives (N, classes); model.task=none times any model",
    )


def _differ(value: Any, other: Any, of: Any = None) -> bool:
    """Whether two runs differ by more than rounding, against the range of the output."""
    a, b = np.asarray(value), np.asarray(other)
    if a.shape != b.shape:
        return True
    if a.dtype.kind not in "fiu":
        return False
    a, b = a.astype(np.float64), b.astype(np.float64)
    whole = np.asarray(a if of is None else of, np.float64)
    finite = whole[np.isfinite(whole)]
    scale = float(np.ptp(finite)) if finite.size else 0.0
    apart = np.abs(a - b)
    return bool(np.nanmax(apart, initial=0.0) > TOLERANCE * scale + 1e-6)


def random_nodes(model: onnx.ModelProto) -> list[str]:
    """Kinds of operators that draw numbers."""
    kinds = set()
    for part in onnx_graph.graphs(model.graph):
        known = onnx_graph.constants(part)
        for node in part.node:
            if node.op_type in RANDOM:
                kinds.add(node.op_type)
            if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
                flag = known.get(node.input[2])
                if flag is None or _true(flag):
                    kinds.add("Dropout with training_mode")
    return sorted(kinds)


def _true(tensor: Any) -> bool:
    import onnx

    return bool(np.any(onnx.numpy_helper.to_array(tensor)))


def batch_nodes(model: onnx.ModelProto) -> list[str]:
    """Kinds of operators that mix the samples of a batch."""
    kinds = set()
    for part in onnx_graph.graphs(model.graph):
        for node in part.node:
            if node.op_type == "BatchNormalization" and onnx_graph.attribute(
                node, "training_mode", 0
            ):
                kinds.add("BatchNormalization with training_mode=1")
            if node.op_type.startswith("DynamicQuantize"):
                kinds.add("DynamicQuantizeLinear, one scale for the whole batch")
    return sorted(kinds)


def _names(kinds: Sequence[str]) -> str:
    return f" ({', '.join(kinds)})" if kinds else ""
