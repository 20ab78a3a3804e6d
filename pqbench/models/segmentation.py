"""Segmentation networks of torchvision that give one tensor: the scores of every pixel."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn


class FcnResNet50(nn.Module):
    """FCN (Long et al. 2014) on a dilated ResNet-50, as torchvision builds it, without aux head.

    Args:
        num_classes: Channels of the output.
    """

    def __init__(self, num_classes: int = 21) -> None:
        super().__init__()
        torchvision: Any = importlib.import_module("torchvision.models.segmentation")
        self.model = torchvision.fcn_resnet50(
            weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
        )

    def forward(self, input: Tensor) -> Tensor:  # the model's input is called so
        """Images (N, 3, H, W) to class scores (N, num_classes, H, W)."""
        scores: Tensor = self.model(input)["out"]
        return scores
