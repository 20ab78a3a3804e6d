"""A network of one's own; nothing in it knows pqbench or Lightning."""

from torch import Tensor, nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution with stride 2, BatchNorm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class CellNet(nn.Module):
    """Five strided convolutions and a linear layer."""

    def __init__(self, num_classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            block(3, width),
            block(width, 2 * width),
            block(2 * width, 4 * width),
            block(4 * width, 8 * width),
            block(8 * width, 8 * width),
        )
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, 3, H, W) to class scores (N, num_classes)."""
        scores: Tensor = self.fc(self.body(image).mean((2, 3)))
        return scores
