"""Sparsity learning: penalties that draw whole channels to zero while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.nets.layers import output_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP_NORM, BN_SCALE = "group_norm", "bn_scale"
PENALTIES: Mapping[str, str] = {
    GROUP_NORM: "weights of all layers that would lose the same channel, the weakest channels most "
    "(Fang et al. 2023, DepGraph, section 3.3)",
    BN_SCALE: "BatchNorm's scales, all alike (Liu et al. 2017, Network slimming)",
}
STRENGTHS: Mapping[str, float] = {GROUP_NORM: 4.0, BN_SCALE: 0.5}
"""How hard each draws unless told otherwise; see :class:`ChannelPenalty`."""
STEEPNESS = 16.0  # group_norm draws the weakest channel so many times as hard as the strongest


class Penalty(Protocol):
    """What is applied after each step of the optimizer."""

    def __call__(self, share: float) -> None:
        """Draw the weights a little nearer to zero.

        Args:
            share: The step's share of the whole training's draw; those of all steps add up to 1.
        """
        ...


class ChannelPenalty:
    """Torch-Pruning's regularizers, apart from the gradient of the loss.

    Adam divides a gradient by its own size, which would make a penalty that is added to it equally
    strong whatever its strength; so, as AdamW does with weight decay (Loshchilov and Hutter 2019),
    the penalty moves the weights by itself.

    Args:
        network: Changed by each call.
        example: A batch for each of its inputs.
        kind: One of ``PENALTIES``.
        strength: ``group_norm``: the weakest channel would shrink by ``exp(-strength)`` over the
            training if the loss did not resist. ``bn_scale``: every scale would lose ``strength``
            times the mean scale, but none changes its sign. From 1 on most scales end at zero, for
            the loss can resist no more than the optimizer's steps, and the network says one thing.

    Raises:
        ConfigError: There is no such penalty.
        UnsupportedError: Torch-Pruning cannot trace the network, or it has no BatchNorm scales.
    """

    def __init__(
        self, network: nn.Module, example: tuple[Tensor, ...], kind: str, strength: float
    ) -> None:
        if kind not in PENALTIES:
            raise ConfigError(
                f"penalty '{kind}' is unknown", hint=f"choose one of {', '.join(PENALTIES)}"
            )
        self.network = network
        self.kind = kind
        self.strength = strength
        scales = _scales(network)
        if kind == BN_SCALE and not scales:
            raise UnsupportedError(
                f"{type(network).__name__} has no BatchNorm scales to draw to zero",
                hint=f"use penalty={GROUP_NORM}",
            )
        self.mean_scale = sum(float(s.detach().abs().mean()) for s in scales) / max(1, len(scales))
        self.pruner = _pruner(network, example, kind)

    def __call__(self, share: float) -> None:
        """See :class:`Penalty`."""
        import torch

        parameters = list(self.network.parameters())
        kept = [p.grad for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        self.pruner.regularize(self.network)
        size = share * self.strength
        size = size * self.mean_scale if self.kind == BN_SCALE else size / STEEPNESS
        with torch.no_grad():
            for p, grad in zip(parameters, kept, strict=True):
                if p.grad is not None:
                    # A group whose channels are all alike gives 0 / 0.
                    draw = size * p.grad.nan_to_num(0.0, 0.0, 0.0)
                    if self.kind == BN_SCALE:  # to zero and no further
                        draw = draw.sign() * torch.minimum(draw.abs(), p.abs())
                    p.sub_(draw)
                p.grad = grad


def _scales(network: nn.Module) -> list[Tensor]:
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [m.weight for m in norms if m.affine]


def _pruner(network: nn.Module, example: tuple[Tensor, ...], kind: str) -> Any:
    import torch_pruning as tp

    maker = tp.pruner.BNScalePruner if kind == BN_SCALE else tp.pruner.GroupNormPruner
    try:
        return maker(
            network,
            example if len(example) > 1 else example[0],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            reg=1.0,
            ignored_layers=list(output_layers(network, example).values()),
            # Its defaults are shared mutable dictionaries, which it fills.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )
    except (
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        RuntimeError,
        ValueError,
    ) as error:
        raise UnsupportedError(
            f"Torch-Pruning cannot follow {type(network).__name__}: "
            f"{type(error).__name__}: {error}",
            hint="prune without sparsity learning",
        ) from error
