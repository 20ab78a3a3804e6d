"""A small convolutional network for small images, after VGG (Simonyan and Zisserman 2014)."""

from __future__ import annotations

from torch import Tensor, nn


def _stage(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class Cnn(nn.Module):
    """Three stages of two 3 x 3 convolutions with BatchNorm, then the mean over positions.

    Args:
        num_classes: Size of the head.
        width: Channels of the first stage; each further stage has twice as many.
        in_channels: Channels of the image.
    """

    def __init__(self, num_classes: int = 10, width: int = 32, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _stage(in_channels, width), _stage(width, 2 * width), _stage(2 * width, 4 * width)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, input: Tensor) -> Tensor:  # the model's input is called so
        """Images (N, C, H, W), H and W at least 8, to class scores (N, num_classes)."""
        scores: Tensor = self.head(self.pool(self.features(input)).flatten(1))
        return scores
