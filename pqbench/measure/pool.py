"""Real inputs for timed calls: a pool that fits in memory, and views of it to rotate through."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import DataError
from pqbench.core.split import PreparedSplit

Batch = dict[str, npt.NDArray[Any]]


def make_pool(split: PreparedSplit, largest: int, limit_mb: float, seed: int) -> Batch:
    """Draw samples from a split and normalise them, before anything is timed.

    Args:
        split: Where from; every class gets its share.
        largest: Largest batch size; the pool holds at least so many samples, repeating the
            split's if it has fewer.
        limit_mb: Memory for the pool in MiB; exceeded only if ``largest`` samples need more.
        seed: Seeds the draw.

    Returns:
        One C-contiguous array per model input, (n, ...), the same n for all.

    Raises:
        DataError: The split is empty.
    """
    if split.count == 0:
        raise DataError(f"split '{split.name}' in {split.folder} holds no samples to time with")
    one = sum(array.nbytes for array in split.feed(slice(0, 1)).values())
    wanted = max(largest, int(limit_mb * 2**20 // max(one, 1)))
    chosen = split.spread(min(wanted, split.count), seed)
    if len(chosen) < largest:
        chosen = np.resize(chosen, largest)
    return split.feed(chosen)


def views(pool: Batch, batch_size: int) -> list[Batch]:
    """Contiguous batches of the pool, to rotate through; the samples left over are not used.

    Args:
        pool: Arrays (n, ...) with n >= ``batch_size``.
        batch_size: Samples per batch.

    Returns:
        At least one batch; the arrays are views, no copies.
    """
    count = min(len(array) for array in pool.values())
    return [
        {name: array[start : start + batch_size] for name, array in pool.items()}
        for start in range(0, count - batch_size + 1, batch_size)
    ]
