"""ResNets for 32 x 32 images (He et al. 2015, "Deep residual learning", section 4.2).

The networks on which pruning is compared in its literature: ResNet-20, -32, -56 and so on, 6n + 2
layers in three stages of 16, 32 and 64 channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pqbench.core.errors import ConfigError


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for small images; 0.27 M parameters and 41 M MACs at 20 layers.

    Shortcuts that change shape are 1 x 1 convolutions (the paper's option B).

    Args:
        num_classes: Size of the head.
        layers: 20, 32, 44, 56 ...
        width: Channels of the first stage; each further stage has twice as many.

    Raises:
        ConfigError: ``layers`` is not 6n + 2.
    """

    def __init__(self, num_classes: int = 10, layers: int = 20, width: int = 16) -> None:
        super().__init__()
        blocks, rest = divmod(layers - 2, 6)
        if rest or blocks < 1:
            raise ConfigError(f"a ResNet for CIFAR has 6n + 2 layers, not {layers}")
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage in range(3):
            out = width * 2**stage
            strides = [2 if stage else 1, *[1] * (blocks - 1)]
            row = []
            for stride in strides:
                row.append(_Block(channels, out, stride))
                channels = out
            stages.append(nn.Sequential(*row))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, input: Tensor) -> Tensor:  # the model's input is called so
        """Images (N, 3, H, W), H and W at least 4, to class scores (N, num_classes)."""
        x = self.stages(functional.relu(self.bn(self.conv(input))))
        scores: Tensor = self.head(self.pool(x).flatten(1))
        return scores
