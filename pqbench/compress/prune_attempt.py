"""One attempt of ``prune`` at a channel ratio, on a copy of the network; nothing outlives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pqbench.compress.attention_heads import HEADS, find_attention, prune_heads
from pqbench.compress.careful import (
    FAILURES,
    BrokenError,
    checker,
    prune_carefully,
    round_kept,
)
from pqbench.compress.criteria import importance
from pqbench.compress.head_ranking import Ranking
from pqbench.core.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

WHOLE_HEADS = (
    "nn.MultiheadAttention reads the head of a channel from its place, which Torch-Pruning shifts"
)
SEPARATE = (
    "queries, keys and values come from layers of their own: a channel's place in them is its "
    "head, which Torch-Pruning shifts"
)


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Attributes:
        network: The network.
        left_alone: By layer: why its channels stay.
        heads: By attention module: heads before and after.
    """

    network: nn.Module
    left_alone: Mapping[str, str]
    heads: Mapping[str, list[int]]


@dataclass(frozen=True)
class Settings:
    """What ``prune`` was told, for every attempt; as its attributes of the same names."""

    criterion: str
    global_pruning: bool
    layer_ratios: Mapping[str, float]
    max_layer_ratio: float
    round_to: int | None
    ignored_layers: Sequence[str]


@dataclass(frozen=True)
class Attempts:
    """Prunes copies of a network.

    Attributes:
        step: The settings.
        network: With the gradients that the criterion reads; it is not changed.
        example: One batch.
        kept: Names of modules that are left alone.
        seed: Of the criterion ``random``.
    """

    step: Settings
    network: nn.Module
    example: tuple[Tensor, ...]
    kept: Sequence[str]
    seed: int

    def at(self, ratio: float) -> Pruned:
        """A copy pruned at a channel ratio.

        Raises:
            UnsupportedError: Torch-Pruning cannot trace or cut this network.
        """
        copy = self._fresh()
        left = dict.fromkeys(_multihead(copy), WHOLE_HEADS)
        left |= dict.fromkeys(_separate(copy), SEPARATE)
        heads: dict[str, list[int]] = {}
        kept = [*self.kept, *left]
        fused = [a.name for a in find_attention(copy, self.example)]
        try:
            if fused:
                raise BrokenError("fused attention is cut by heads")
            check = checker(copy, self.example)
            self._pruner(copy, kept, ratio).step()
            check()
        except (*FAILURES, BrokenError):  # one group or more breaks it: find which
            copy = self._fresh()
            if fused:
                pruner = self._pruner(copy, kept, ratio)
                ignored = self.step.ignored_layers
                heads = prune_heads(copy, self.example, self._ranking(ratio), pruner, ignored)
            left.update(self._carefully(copy, [*kept, *fused], ratio))
        copy.zero_grad(set_to_none=True)
        return Pruned(copy, left, heads)

    def _fresh(self) -> nn.Module:
        import torch

        torch.manual_seed(self.seed)
        copy = deepcopy(self.network)
        for ours, theirs in zip(copy.parameters(), self.network.parameters(), strict=True):
            ours.grad = None if theirs.grad is None else theirs.grad.clone()
        return copy

    def _ranking(self, ratio: float) -> Ranking:
        step = self.step
        return Ranking(
            ratio,
            step.criterion,
            together=step.global_pruning,
            most=step.max_layer_ratio,
            own=step.layer_ratios,
        )

    def _carefully(self, network: nn.Module, kept: Sequence[str], ratio: float) -> dict[str, str]:
        try:
            pruner = self._pruner(network, kept, ratio)
            return prune_carefully(pruner, network, checker(network, self.example))
        except (*FAILURES, BrokenError) as error:
            raise UnsupportedError(
                f"Torch-Pruning cannot prune {type(network).__name__}: "
                f"{type(error).__name__}: {error}",
                hint="name the layers it stumbles over in compress.prune.ignored_layers",
            ) from error

    def _pruner(self, network: nn.Module, kept: Sequence[str], ratio: float) -> Any:
        import torch_pruning as tp

        modules = dict(network.named_modules())
        step, most = self.step, self.step.max_layer_ratio
        pruner = tp.pruner.BasePruner(
            network,
            self.example if len(self.example) > 1 else self.example[0],
            importance=importance(step.criterion),
            # Its own limit is looked at before a layer is cut, not after.
            pruning_ratio=ratio if step.global_pruning else min(ratio, most),
            pruning_ratio_dict={modules[k]: v for k, v in step.layer_ratios.items()},
            max_pruning_ratio=most,
            global_pruning=step.global_pruning,
            # Never null: the limit is held where it rounds.
            round_to=step.round_to or 1,
            ignored_layers=[modules[name] for name in kept],
            # Its defaults are shared mutable dictionaries, which it fills.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
        pruner._round_to = partial(round_kept, most=most)
        return pruner


def _multihead(network: nn.Module) -> list[str]:
    """Names of torch's own attention: its heads are slices of one axis, and must stay whole."""
    from torch import nn

    return [n for n, m in network.named_modules() if isinstance(m, nn.MultiheadAttention)]


def _separate(network: nn.Module) -> list[str]:
    """Names of the Linear layers of attention that gives queries, keys and values one by one.

    A module with a number of heads and at least three such layers of one width, which the number
    divides.
    """
    from torch import nn

    found = []
    for name, module in network.named_modules():
        heads = next((h for key in HEADS if isinstance(h := getattr(module, key, None), int)), 0)
        linear = {n: m for n, m in module.named_children() if isinstance(m, nn.Linear)}
        for width in {m.out_features for m in linear.values()}:
            same = [n for n, m in linear.items() if m.out_features == width]
            if heads > 1 and len(same) >= 3 and width % heads == 0:
                found += [f"{name}.{n}" if name else n for n in same]
    return found
