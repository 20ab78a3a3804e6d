"""Whether a network can be built, saved, exported and given another head."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import PqbenchError
from pqbench.testing.require import BrokenContract, require
from pqbench.testing.samples import outputs

_ROWS = 3
_CLOSE = 1e-4


def check_model(
    network: Callable[..., Any],
    head: str,
    shape: Sequence[int] = (3, 64, 64),
    dtype: str = "float32",
    **arguments: Any,
) -> None:
    """Build a network as a configuration does, and do with it what every experiment does.

    Args:
        network: What ``model.network._target_`` names: a class or a function that gives a
            ``torch.nn.Module``; importable by its own name.
        head: Dotted name of the layer that gives the class scores (``model.head``).
        shape: Of one input, without the batch.
        dtype: ``float32``, or ``int64`` for token ids.
        arguments: What the target is given.

    Raises:
        BrokenContract: It cannot be built, its head is not where it should be, its outputs depend
            on what else is in the batch, or it does not survive saving or the export to ONNX.
    """
    who = f"{network.__module__}.{network.__qualname__}"
    try:
        _check(who, {"_target_": who, **arguments}, head, tuple(shape), dtype)
    except PqbenchError as error:
        raise BrokenContract(f"{who}: {error}") from error


def _check(
    who: str, builder: dict[str, Any], head: str, shape: tuple[int, ...], dtype: str
) -> None:
    from pqbench.export.convert import convert
    from pqbench.models.heads import head_size
    from pqbench.nets.checkpoint import build_network, save_network

    model = build_network(builder)
    first, second = model.state_dict(), build_network(builder).state_dict()
    require(
        {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()},
        f"{who}: built twice, it has other parameters the second time",
    )
    classes = head_size(model, head)
    rng = np.random.default_rng(0)
    values = (
        rng.normal(size=(_ROWS, *shape))
        if dtype == "float32"
        else rng.integers(1, 9, (_ROWS, *shape))
    )
    batch = {"input": np.ascontiguousarray(values, dtype)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = TensorSpec("input", (None, *shape), dtype)
        artifact = save_network(model, builder, folder / "torch", (spec,), ("logits",), ())
        together = outputs(artifact, batch)[0]
        fits = together.ndim >= 2 and together.shape[:2] == (_ROWS, classes)
        require(
            fits,
            f"{who}: {_ROWS} inputs give outputs of shape {together.shape}, the head {head} says "
            f"({_ROWS}, {classes}, ...)",
        )
        require(bool(np.isfinite(together).all()), f"{who}: the outputs are not finite")
        alone = np.concatenate(
            [outputs(artifact, {"input": batch["input"][i : i + 1]})[0] for i in range(_ROWS)]
        )
        require(
            np.allclose(together, alone, rtol=_CLOSE, atol=_CLOSE * float(np.abs(alone).max())),
            f"{who}: an output depends on what else is in the batch, or changes from call to call",
        )
        convert(artifact, "onnx", batch, folder / "onnx")
