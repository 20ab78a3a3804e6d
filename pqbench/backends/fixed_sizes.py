"""Batches of a size that nothing was compiled for, such as the last one of a split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = list[npt.NDArray[Any]]


def run_other_size(
    run: Callable[[dict[str, npt.NDArray[Any]]], Arrays],
    batch: Mapping[str, npt.NDArray[Any]],
    sizes: Collection[int],
) -> Arrays:
    """Outputs of a batch, from calls at sizes that there are.

    The batch is filled up with repeated samples to the next larger size, and what they give is
    thrown away; a batch above the largest size is cut into pieces of it.

    Args:
        run: Outputs of a batch; called with one of ``sizes``, but for the last piece.
        batch: Inputs, (n, ...) each.
        sizes: Batch sizes, at least one.
    """
    count = len(next(iter(batch.values())))
    larger = [size for size in sizes if size > count]
    if larger:
        size = min(larger)
        filled = {k: np.resize(v, (size, *v.shape[1:])) for k, v in batch.items()}
        return [output[:count].copy() for output in run(filled)]
    step = max(sizes)
    parts = [
        run({k: np.ascontiguousarray(v[i : i + step]) for k, v in batch.items()})
        for i in range(0, count, step)
    ]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
