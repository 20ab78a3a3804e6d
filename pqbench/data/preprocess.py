"""From an image file to the uint8 pixels that a model is fed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from pqbench.core.errors import ConfigError, DataError
from pqbench.core.preprocess import Interpolation, PreprocessSettings, ResizeMode

FILTERS = {
    Interpolation.bilinear: Image.Resampling.BILINEAR,
    Interpolation.bicubic: Image.Resampling.BICUBIC,
}


@dataclass
class Preprocess(PreprocessSettings):
    """How an image becomes a model's input: the model's settings and the data set's mode.

    Attributes:
        mode: ``crop``: resize the shorter side and cut out the centre, as torchvision does.
            ``squash``: resize to ``crop`` x ``crop`` whatever the aspect, nothing cut off.
    """

    mode: ResizeMode = ResizeMode.crop

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in set(ResizeMode):
            raise ConfigError(
                f"no resize mode '{self.mode}'", f"choose from {', '.join(ResizeMode)}"
            )

    @classmethod
    def of(cls, settings: PreprocessSettings, mode: ResizeMode = ResizeMode.crop) -> Self:
        """A model's settings with a data set's ``resize_mode``."""
        return cls(**{**asdict(settings), "mode": mode})


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
    side, resample = preprocess.crop, FILTERS[Interpolation(preprocess.interpolation)]
    resample = Image.Resampling.NEAREST if nearest else resample
    if preprocess.mode == ResizeMode.squash:
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
    mode = "L" if preprocess.channels == 1 else "RGB"
    if image.mode != mode:  # else it would be copied
        image = image.convert(mode)
    pixels = to_pixels(image, preprocess)
    return pixels[:, :, None] if preprocess.channels == 1 else pixels


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
