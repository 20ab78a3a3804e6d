"""Layers replaced by two thinner ones, whose product they are or were (low-rank factorisation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def factorised(network: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Replace layers of a network in place: the builder of factorised networks.

    Args:
        network: Has ``nn.Linear`` and ungrouped ``nn.Conv2d`` layers of these names.
        ranks: The rank of each layer to replace, by its dotted name.

    Returns:
        The same network; the new weights are random (see :func:`split_weight`).

    Raises:
        KeyError: A name is none of the network's.
    """
    modules = dict(network.named_modules())
    for name, rank in ranks.items():
        owner, _, leaf = name.rpartition(".")
        setattr(modules[owner], leaf, pair(modules[name], rank))
    return network


def pair(layer: nn.Module, rank: int) -> nn.Sequential:
    """Two layers in a row from a layer's inputs to its outputs through ``rank`` channels.

    A convolution's kernel, stride, padding and dilation stay with the first, the second is 1 x 1
    (Zhang et al. 2016, "Accelerating very deep convolutional networks", section 3).
    """
    from torch import nn

    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=bias),
        )
    assert isinstance(layer, nn.Conv2d)
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        tuple(layer.kernel_size),  # type: ignore[arg-type]
        stride=tuple(layer.stride),  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        dilation=tuple(layer.dilation),  # type: ignore[arg-type]
        bias=False,
    )
    return nn.Sequential(first, nn.Conv2d(rank, layer.out_channels, 1, bias=bias))


def split_weight(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two weights whose product is nearest to a weight (Eckart and Young 1936).

    Args:
        weight: (outputs, inputs) or (outputs, inputs, height, width).
        rank: Of the product.

    Returns:
        (rank, inputs, ...) and (outputs, rank) with as many axes of size 1 as the weight has.
    """
    import torch

    left, values, right = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    root = values[:rank].sqrt()
    first = (root[:, None] * right[:rank]).reshape(rank, *weight.shape[1:])
    second = (left[:, :rank] * root).reshape(len(weight), rank, *[1] * (weight.dim() - 2))
    return first.to(weight.dtype), second.to(weight.dtype)
