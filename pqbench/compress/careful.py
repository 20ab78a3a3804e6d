"""Prune what a dependency graph gets right, and leave alone what it does not: found by trying.

Torch-Pruning cannot follow every way that channels take (a chunk whose parts meet again, a pixel or
channel shuffle, a fused projection of attention, a size written as a number). Each group of coupled
layers is cut on its own and the network run; a group that fails is put back as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pqbench.nets.checkpoint import tied_names
from pqbench.nets.layers import output_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

FAILURES = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(RuntimeError, TypeError, ValueError, ZeroDivisionError),
)


class BrokenError(Exception):
    """A cut network runs no more, or computes something of another form."""


def checker(network: nn.Module, example: tuple[Tensor, ...]) -> Callable[[], None]:
    """A function that raises :class:`BrokenError` unless the network is still sound.

    Its outputs must keep their shapes, and weights that were shared must still be.
    """
    import torch

    with torch.no_grad():
        shapes = output_shapes(network(*example))
    ties = tied_names(network)

    def check() -> None:
        try:
            with torch.no_grad():
                now = output_shapes(network.eval()(*example))
        except FAILURES as error:
            raise BrokenError(f"{type(error).__name__}: {_first_line(error)}") from error
        if now != shapes:
            raise BrokenError(f"the output's shape changed from {shapes} to {now}")
        if lost := set(ties) - set(tied_names(network)):
            raise BrokenError(f"{min(lost)} is no longer shared with {ties[min(lost)]}")

    return check


def round_kept(n_pruned: int, channels: int, round_to: int, most: float = 1.0) -> int:
    """How many channels go so that a multiple of ``round_to`` stays, never none, never too few.

    Torch-Pruning's own rounding leaves 0 of 32 channels where 6 should stay and ``round_to`` is 8;
    it then prunes nothing there, so that a higher ratio makes a larger network.

    Args:
        n_pruned: Channels that should go.
        channels: Channels that there are.
        round_to: At least 1.
        most: At most this share of the channels goes.
    """
    fewest = math.ceil(channels * (1 - most) / round_to - 1e-9) * round_to
    kept = max((channels - n_pruned) // round_to * round_to, fewest, round_to)
    return max(channels - kept, 0)


def prune_carefully(pruner: Any, network: nn.Module, check: Callable[[], None]) -> dict[str, str]:
    """Prune group by group; undo what breaks the network.

    Args:
        pruner: A fresh ``torch_pruning`` pruner of the network.
        network: Changed in place.
        check: Of :func:`checker`.

    Returns:
        By the name of the layer whose channels stay: why.
    """
    left: dict[str, str] = {}
    estimate = pruner.estimate_importance

    def guarded(group: Any) -> Any:
        try:
            return estimate(group)
        except FAILURES as error:
            left[_root(pruner, group)] = f"{type(error).__name__}: {_first_line(error)}"
            return None  # the pruner passes over a group without importance

    pruner.estimate_importance = guarded
    for group in pruner.step(interactive=True):
        name = _root(pruner, group)
        with undoing(pruner, network) as undo:
            try:
                group.prune()
                check()
            except (*FAILURES, BrokenError) as error:
                undo()
                left[name] = _first_line(error)
    check()
    return left


def _root(pruner: Any, group: Any) -> str:
    """Name of the layer that a group of coupled layers starts from."""
    names = pruner.DG._module2name
    for dep, _ in group:
        for module in (dep.source.module, dep.target.module):
            if names.get(module):
                return str(names[module]).partition(" ")[0]
    return "?"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextmanager
def undoing(pruner: Any, network: nn.Module) -> Iterator[Callable[[], None]]:
    """Give a function that puts modules and the pruner's graph back as they were.

    Cutting replaces tensors and numbers and changes none in place, so their holders are copied and
    not the tensors.
    """
    modules = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in network.modules()]
    graph = pruner.DG
    names, nodes = dict(graph._param_to_name), dict(graph.module2node)
    held = {key: node.module for key, node in nodes.items()}

    def undo() -> None:
        for module, attributes, parameters, buffers in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module._parameters = parameters
            module._buffers = buffers
        graph._param_to_name, graph.module2node = names, nodes
        for key, node in nodes.items():
            node.module = held[key]

    yield undo
