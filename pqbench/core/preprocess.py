"""How an image becomes a model's input: said by models and data sets, done by the package data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pqbench.core.errors import ConfigError


class Interpolation(StrEnum):
    """How an image is resized, antialiased as Pillow does it."""

    bilinear = "bilinear"
    bicubic = "bicubic"


class ResizeMode(StrEnum):
    """What becomes of an image that is not square."""

    crop = "crop"  # the shorter side is resized, the centre cut out, as torchvision does
    squash = "squash"  # the whole picture is resized to a square whatever its aspect


class OnError(StrEnum):
    """What to do with an unreadable image."""

    fail = "fail"
    skip = "skip"  # leave it out, count it, note it


class Augment(StrEnum):
    """Changes of an image that keep its label, drawn anew for each image and pass of a training."""

    none = "none"
    flip = "flip"  # left-right
    dihedral = "dihedral"  # all eight flips and quarter turns
    shift = "shift"  # flip, and a shift by up to an eighth of the side
    crop = "crop"  # flip, and a crop of random size and place, resized to the whole


@dataclass
class PreprocessSettings:
    """Sizes and normalization of an image input.

    Attributes:
        resize: Shorter side after resizing, in pixels.
        crop: Side of the centre crop, in pixels; the model's input is (3, crop, crop).
        interpolation: ``bilinear`` or ``bicubic``, with Pillow's antialiasing.
        mean: Per-channel mean on the 0..1 scale: three values, or one for grey images, of which the
            model's input is (1, crop, crop).
        std: Per-channel standard deviation on the 0..1 scale, as many.

    Raises:
        ConfigError: A value is out of its range.
    """

    resize: int = 256
    crop: int = 224
    interpolation: Interpolation = Interpolation.bilinear
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])

    def __post_init__(self) -> None:
        self.mean, self.std = list(self.mean), list(self.std)
        if self.interpolation not in set(Interpolation):
            raise ConfigError(
                f"no interpolation '{self.interpolation}'",
                f"choose from {', '.join(Interpolation)}",
            )
        if not 0 < self.crop <= self.resize:
            raise ConfigError(f"crop {self.crop} px must lie in 1 ... resize ({self.resize} px)")
        if (len(self.mean), len(self.std)) not in ((1, 1), (3, 3)) or min(self.std) <= 0:
            raise ConfigError(
                "preprocess.mean and .std need three values each, or one each for grey images, "
                "std above 0"
            )

    @property
    def channels(self) -> int:
        """Channels that a model is fed: 3 (RGB) or 1 (grey)."""
        return len(self.mean)
