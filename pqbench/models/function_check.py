"""Is a network a function of its input? Asked before anything is timed.

Dropout that stays on, batch statistics in inference, an axis lost at batch 1, a permutation drawn
anew at every build: each gives figures that depend on chance or on the batch size. The network is
run twice, at two batch sizes, and built twice, on real inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pqbench.core.errors import PqbenchError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.models.outputs import failure
from pqbench.nets.layers import flatten_outputs
from pqbench.nets.watch import BRANCHES, RANDOM, lines_of

if TYPE_CHECKING:
    from torch import Tensor, nn

# Rounding leaves 90 dB and more between two ways to compute the same; chance leaves 20 and less.
SAME_DB = 40.0
VARYING_DB = 20.0
ALONE = 2


def _run(network: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    import torch

    try:
        with torch.no_grad():
            value = network(*batch)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise failure(network, batch, error) from error
    return [tensor.detach().float() for tensor in flatten_outputs(value)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    for ours, theirs in zip(a, b, strict=True):
        if ours.shape != theirs.shape:
            return False
        x, y = ours.numpy(), theirs.numpy()
        if sqnr_db(x, y) < SAME_DB:
            return False
        if len(x) > 1 and sqnr_db(x, y) < 2 * SAME_DB and sqnr_db(x, y, True) < VARYING_DB:
            return False
    return True


def check_function(network: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """Check that two runs agree, and that a sample's outputs do not depend on the others.

    Args:
        network: In eval mode, with its final weights.
        batch: At least two samples of real inputs.

    Returns:
        The outputs on the batch.

    Raises:
        UnsupportedError: They do not; the message names the cause and its line of source code.
    """
    name = type(network).__name__
    first = _run(network, batch)
    if not _same(first, _run(network, batch)):
        lines = _where(network, batch, RANDOM)
        raise UnsupportedError(
            f"two runs of {name} on one input differ: it draws random numbers in inference{lines}",
            hint="dropout must follow self.training: F.dropout(x, p, self.training)",
        )
    for i in range(min(ALONE, len(batch[0]))):
        _check_alone(network, tuple(tensor[i : i + 1] for tensor in batch), first, i, batch)
    return first


def _check_alone(
    network: nn.Module,
    one: tuple[Tensor, ...],
    together: list[Tensor],
    position: int,
    batch: tuple[Tensor, ...],
) -> None:
    name = type(network).__name__
    try:
        alone = _run(network, one)
    except PqbenchError as error:
        lines = _where(network, batch, ("squeeze",))
        raise UnsupportedError(
            f"{name} runs on a batch of {len(batch[0])} but not of 1: {error.message}{lines}",
            hint=".squeeze() without a dimension drops the batch axis: use .flatten(1)"
            if lines
            else "its forward must take any batch size",
        ) from error
    for single, all_ in zip(alone, together, strict=True):
        if single.shape != (1, *all_.shape[1:]):
            lines = _where(network, batch, ("squeeze",))
            raise UnsupportedError(
                f"at batch 1 the output of {name} is {tuple(single.shape)}, not "
                f"{(1, *all_.shape[1:])}{lines}",
                hint=".squeeze() without a dimension drops the batch axis: use .flatten(1)",
            )
    if _same(alone, [tensor[position : position + 1] for tensor in together]):
        return
    layers = _batch_statistics(network)
    lines = _where(network, batch, BRANCHES)
    cause = ""
    if layers:
        cause = f": BatchNorm without running statistics ({', '.join(layers[:3])})"
    elif lines:
        cause = f": a branch on the data of the whole batch{lines}"
    raise UnsupportedError(
        f"the outputs of {name} for one sample depend on the others in its batch{cause}",
        hint="accuracy would depend on the batch size: keep running statistics "
        "(track_running_stats=True) and eval mode"
        if layers
        else "accuracy would depend on the batch size",
    )


def _where(network: nn.Module, batch: tuple[Tensor, ...], names: tuple[str, ...]) -> str:
    lines = lines_of(network, batch, names)
    return f", {', '.join(lines[:3])}" if lines else ""


def _batch_statistics(network: nn.Module) -> list[str]:
    """BatchNorm layers that use the batch's own mean and variance."""
    from torch import nn

    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and (module.training or module.running_mean is None)
    ]


def check_rebuilt(
    outputs: list[Tensor],
    network: nn.Module,
    rebuild: Callable[[], nn.Module],
    batch: tuple[Tensor, ...],
) -> None:
    """Check that the network built anew with the same tensors gives the same outputs.

    Args:
        outputs: Of ``network`` on ``batch``.
        network: The network itself.
        rebuild: Builds it again, from its builder and its tensors.
        batch: The inputs.

    Raises:
        UnsupportedError: It does not: something that decides the outputs is no tensor of its state.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.seed()
        other = rebuild()
    if _same(outputs, _run(other, batch)):
        return
    names = _other_attributes(network, other)
    what = f": {', '.join(names[:3])}" if names else ""
    raise UnsupportedError(
        f"two builds of {type(network).__name__} with the same weights give different outputs: "
        f"something drawn at random when it is built is not among its weights{what}",
        hint=f"register it in __init__: self.register_buffer('{names[0].rpartition('.')[2]}', ...)"
        if names
        else "make it a parameter or a buffer of the module",
    )


def _other_attributes(network: nn.Module, other: nn.Module) -> list[str]:
    """Attributes outside the state dict whose values differ between two builds."""
    import numpy as np
    import torch

    theirs = dict(other.named_modules())
    found = []
    for name, module in network.named_modules():
        twin = theirs.get(name)
        if twin is None:
            continue
        hidden = {k: module._buffers[k] for k in module._non_persistent_buffers_set}
        for key, value in {**vars(module), **hidden}.items():
            if key.startswith("_"):
                continue
            counterpart = getattr(twin, key, None)
            if isinstance(value, torch.Tensor | np.ndarray | list | tuple | float):
                try:
                    same = np.array_equal(np.asarray(value), np.asarray(counterpart))
                except (ValueError, TypeError, RuntimeError):
                    continue
                if not same:
                    found.append(f"{name}.{key}" if name else key)
    return found
