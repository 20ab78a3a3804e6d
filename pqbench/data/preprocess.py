"""From an image file to the uint8 pixels that a model is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pqbench.core.errors import ConfigError, DataError

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = ("crop", "squash")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input.

    Attributes:
        resize: Length of the shorter side after resizing, px (mode ``crop``).
        crop: Side of the square that the model sees, px.
        interpolation: ``bilinear`` or ``bicubic``, antialiased as Pillow does it.
        mean: Per-channel mean, on the 0..1 scale: three values, or one for grey images.
        std: Per-channel standard deviation, on the 0..1 scale, as many.
        mode: ``crop``: resize the shorter side and cut out the centre, as torchvision does.
            ``squash``: resize to ``crop`` x ``crop`` whatever the aspect, nothing cut off.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "crop"

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise ConfigError(
                f"no interpolation '{self.interpolation}'", f"choose from {', '.join(FILTERS)}"
            )
        if self.mode not in MODES:
            raise ConfigError(f"no resize mode '{self.mode}'", f"choose from {', '.join(MODES)}")
        if not 0 < self.crop <= self.resize:
            raise ConfigError(f"crop {self.crop} px must lie in 1 ... resize ({self.resize} px)")
        counts = (len(self.mean), len(self.std))
        if counts not in ((1, 1), (3, 3)) or min(self.std) <= 0:
            raise ConfigError(
                "preprocess.mean and .std need three values each, or one each for grey images, "
                "std above 0"
            )

    @property
    def channels(self) -> int:
        """Channels that a model is fed: 3 (RGB) or 1 (grey)."""
        return len(self.mean)

    @classmethod
    def from_config(cls, preprocess: Mapping[str, Any], mode: str) -> Self:
        """From a model's ``preprocess`` settings and a data set's ``resize_mode``."""
        settings = dict(preprocess)
        mean, std = tuple(settings.pop("mean")), tuple(settings.pop("std"))
        return cls(mean=mean, std=std, mode=mode, **settings)


def to_pixels(
    image: Image.Image, preprocess: Preprocess, nearest: bool = False
) -> npt.NDArray[np.uint8]:
    """Resize and crop an image to uint8 (crop, crop, 3), or (crop, crop) for a grey one.

    Sizes and offsets are those of torchvision's ``Resize`` and ``CenterCrop``.

    Args:
        image: RGB, or a mask of class indices.
        preprocess: Sizes and interpolation.
        nearest: Keep values as they are (masks), instead of the interpolation asked.
    """
    side, resample = preprocess.crop, FILTERS[preprocess.interpolation]
    resample = Image.Resampling.NEAREST if nearest else resample
    if preprocess.mode == "squash":
        return np.asarray(image.resize((side, side), resample))
    width, height = image.size
    short = min(width, height)
    if short != preprocess.resize:
        longer = int(preprocess.resize * max(width, height) / short)
        wide = width > height
        size = (longer, preprocess.resize) if wide else (preprocess.resize, longer)
        image = image.resize(size, resample)
        width, height = size
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def to_channels(image: Image.Image, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """An image as the model's channels: uint8 (crop, crop, 3), or (crop, crop, 1) for grey."""
    if preprocess.channels == 1:
        return to_pixels(image.convert("L"), preprocess)[:, :, None]
    return to_pixels(image.convert("RGB"), preprocess)


def decode(content: bytes, file: Path, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Decode one image file to uint8 (crop, crop, 3) RGB; a grey image gets three equal channels.

    With one ``mean`` it is made grey instead (ITU-R 601-2 luma, as Pillow's mode L), and the result
    is (crop, crop, 1).

    Args:
        content: The file's bytes.
        file: Its path, for the message.
        preprocess: Sizes and interpolation.

    Raises:
        DataError: The file is damaged, no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"image {file} has more than 8 bits a channel (mode {image.mode})",
                    hint="convert it to 8 bits first: how to scale it is not pqbench's to guess",
                )
            return to_channels(image, preprocess)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # The error's text may name the in-memory buffer, which helps nobody: its class does.
        reason = "no image format that Pillow knows" if "identify" in str(error) else error
        raise DataError(
            f"cannot read image {file}: {reason}",
            hint="repair or delete it, or set dataset.on_error=skip to leave it out and count it",
        ) from error
