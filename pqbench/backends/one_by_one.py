"""Runtimes that take one sample a call: what becomes of larger batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError

WAYS = ("one_by_one", "refuse")
"""n samples are n calls, one after the other; or batch sizes above 1 are refused."""

Arrays = list[npt.NDArray[Any]]


def refuse_batches(way: str, batch_sizes: Sequence[int], runtime: str) -> None:
    """Raise ``UnsupportedError`` if a batch size is above 1 and ``way`` is ``refuse``."""
    larger = [size for size in batch_sizes if size > 1]
    if larger and way == "refuse":
        raise UnsupportedError(
            f"{runtime} takes one sample a call, protocol.batch_sizes asks for {larger}",
            hint="set protocol.batch_sizes=[1], or backend.batch=one_by_one",
        )


def run_each(run: Callable[[Arrays], list[npt.NDArray[np.float32]]], arrays: Arrays) -> Arrays:
    """Outputs (n, ...) of n samples, from one call each.

    Args:
        run: Outputs (1, ...) of the inputs (1, ...) of one sample.
        arrays: Inputs, (n, ...) each.
    """
    rows = [run([array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
    if len(rows) == 1:
        return rows[0]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]
