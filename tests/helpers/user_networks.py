"""Networks of a user's own, found through PYTHONPATH."""

from dataclasses import dataclass

from torch import Tensor, nn


class TinySegmenter(nn.Module):
    """Scores for every pixel."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(image))
        return scores


class TiedNetwork(nn.Module):
    """Two layers share one weight, and one block is used three times."""

    def __init__(self, num_classes: int = 2, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.b.weight = self.a.weight
        block = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.blocks = nn.ModuleList([block] * 3)
        self.hidden = nn.Linear(width, 4 * width)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.b(self.a(x).relu()) + x
        for block in self.blocks:
            x = x + block(x).relu()
        scores: Tensor = self.fc(self.hidden(x.mean((2, 3))).relu())
        return scores


class Branching(nn.Module):
    """A branch on the data of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        if x.sum() > 0:
            x = x * 0.5
        scores: Tensor = self.fc(x)
        return scores


class Normalised(nn.Module):
    """Weight normalisation, new and old, and spectral normalisation."""

    def __init__(self, num_classes: int = 10) -> None:
        from torch.nn.utils import parametrizations, weight_norm

        super().__init__()
        self.body = nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(3, 16, 3, 2, 1)),
            nn.ReLU(),
            parametrizations.spectral_norm(nn.Conv2d(16, 32, 3, 2, 1)),
            nn.ReLU(),
            weight_norm(nn.Conv2d(32, 32, 3, 2, 1)),
        )
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(self.body(x).relu().mean((2, 3)))
        return scores


@dataclass
class Output:
    """What some libraries' networks return."""

    features: Tensor
    scores: Tensor
    loss: None = None


class InDataclass(nn.Module):
    """Scores as the field of an object."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Output:
        features = self.body(x).mean((2, 3))
        return Output(features, self.fc(features))
