"""Between a torch network and NumPy: what goes in, in order, and what comes out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from pqbench.artifact import Artifact


def as_tensors(
    batch: Mapping[str, npt.NDArray[Any]], artifact: Artifact
) -> tuple[torch.Tensor, ...]:
    """The batch in the order of ``artifact.inputs``, ready for ``forward``.

    Memory is shared with the arrays, except with read-only ones (memory maps), which are copied.
    """
    import torch

    arrays = (batch[spec.name] for spec in artifact.inputs)
    return tuple(torch.from_numpy(a if a.flags.writeable else a.copy()) for a in arrays)


def flatten_outputs(value: Any) -> list[torch.Tensor]:
    """The tensors that a network returned, in order, out of tuples, lists and mappings."""
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in flatten_outputs(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in flatten_outputs(part)]
    return [] if value is None else [value]
