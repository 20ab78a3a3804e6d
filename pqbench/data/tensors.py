"""Prepare samples that are neither images nor texts: arrays, one per input, fed as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.dataset import Split, TensorDataset
from pqbench.core.errors import DataError
from pqbench.core.split import PreparedSplit
from pqbench.data.prepare import save_manifest


def prepare_tensors(
    dataset: TensorDataset,
    split: str,
    inputs: Sequence[TensorSpec],
    names: Sequence[str],
    folder: Path,
    limit: int | None = None,
    notes: Sequence[str] = (),
) -> PreparedSplit:
    """Write ``<name>.npy`` for each input, ``labels.npy`` of zeros, and ``manifest.json``.

    Args:
        dataset: Where the arrays come from.
        split: Name of the split.
        inputs: One sample of each input of the model: its name, shape, type.
        names: What each is called here, which can be a file's name.
        folder: Where to write; created.
        limit: At most so many samples, evenly spread.
        notes: What was assumed of the inputs.

    Raises:
        DataError: An array is missing, or is of another type or shape.
    """
    index = dataset.index()
    arrays = dataset.tensors(split, inputs)
    count = len(index.split(split))
    kept = count if limit is None else max(1, min(limit, count))
    rows = np.linspace(0, count - 1, kept).round().astype(np.int64).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    # With the row's number: equal inputs of two splits give no answer away, there are no labels.
    digests = [hashlib.sha256(f"{split}:{row}".encode()) for row in rows]
    for spec, name in zip(inputs, names, strict=True):
        array = _as(arrays[spec.name], spec)[rows]
        np.save(folder / f"{name}.npy", array)
        for digest, row in zip(digests, array, strict=True):
            digest.update(f"{name}{row.shape}{row.dtype}".encode())
            digest.update(np.ascontiguousarray(row).tobytes())
    np.save(folder / "labels.npy", np.zeros(len(rows), np.int64))
    sources = [digest.hexdigest() for digest in digests]
    chosen: Split = index.split(split).take(rows)
    said = [*index.notes, *notes]
    if len(rows) < count:
        said.append(f"limit: {len(rows):,} of {count:,} samples, evenly spread")
    return save_manifest(
        folder, split, chosen, index.classes, names, {}, sources, said, {"sources": sources}
    )


def _as(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """An array in the type of the input, where nothing is lost by it.

    Raises:
        DataError: It would be, or the sample has another shape.
    """
    want = tuple(spec.shape)
    if len(array.shape[1:]) != len(want):
        raise DataError(
            f"array '{spec.name}' has samples of shape {array.shape[1:]}, the model takes {want}",
            hint="the samples lie along the first axis, in addition to the input's own",
        )
    if str(array.dtype) == spec.dtype:
        return array
    converted = array.astype(spec.dtype)
    if not np.can_cast(array.dtype, spec.dtype, "same_kind") and not np.array_equal(
        converted.astype(array.dtype), array
    ):
        raise DataError(
            f"array '{spec.name}' is {array.dtype}, the model takes {spec.dtype}",
            hint=f"save it as {spec.dtype}",
        )
    return converted
