"""Small pictures of the samples whose answer compression changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqbench.core.split import PreparedSplit

FOLDER = "flips"
MOST = 12
SIDE = 96  # px
_IMAGE_DIMS = 4


def in_order(
    labels: npt.NDArray[np.integer], before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Places of the samples whose answers differ: lost first, then won, then wrong both times."""
    lost = (before == labels) & (after != labels)
    won = (before != labels) & (after == labels)
    other = (before != after) & ~lost & ~won
    return np.concatenate([np.flatnonzero(group) for group in (lost, won, other)])


def save_flips(split: PreparedSplit, logits: Path, baseline: Path, folder: Path) -> bool:
    """Write ``flips/<index>.jpg`` beside a record, :data:`MOST` at most.

    Args:
        split: What was scored.
        logits: Outputs of the candidate, (n, classes).
        baseline: Of the baseline, on the same samples.
        folder: Of the record.

    Returns:
        Whether any was written: not where inputs are no images, or no answer changed.
    """
    from PIL import Image

    pixels = split.stored(split.arrays[0]) if len(split.arrays) == 1 else np.empty(0)
    if pixels.ndim != _IMAGE_DIMS or pixels.dtype != np.uint8:
        return False
    after, before = (
        np.load(path, mmap_mode="r", allow_pickle=False) for path in (logits, baseline)
    )
    if (after.ndim, before.ndim) != (2, 2) or not len(after) == len(before) == split.count:
        return False
    labels = np.asarray(split.labels())
    chosen = in_order(labels, before.argmax(axis=1), after.argmax(axis=1))[:MOST]
    if not len(chosen):
        return False
    (folder / FOLDER).mkdir(exist_ok=True)
    for index in chosen:
        raw = np.asarray(pixels[index])
        picture = Image.fromarray(raw[..., 0] if raw.shape[-1] == 1 else raw)
        picture.thumbnail((SIDE, SIDE))
        picture.save(folder / FOLDER / f"{index}.jpg", quality=80)
    return True
