"""A small network of one's own, as an example: nothing in it knows pqbench."""

from torch import Tensor, nn


class LeafNet(nn.Module):
    """Two strided convolutions, a mean, and a linear layer."""

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(2 * width, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, 3, H, W) to class scores (N, num_classes)."""
        scores: Tensor = self.classifier(self.body(image).mean((2, 3)))
        return scores
