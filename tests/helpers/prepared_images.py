"""Write a prepared split by hand, as ``pqbench.core.split`` documents it, from real images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pqbench.core.files import file_sha256, write_json
from pqbench.core.split import PreparedSplit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_prepared(
    folder: Path,
    files: Sequence[Path],
    labels: Sequence[int],
    classes: Sequence[str],
    size: int,
    name: str = "train",
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> PreparedSplit:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.empty((len(files), size, size, 3), np.uint8)
    for i, file in enumerate(files):
        with Image.open(file) as image:
            images[i] = np.asarray(
                image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            )
    np.save(folder / "input.npy", images)
    np.save(folder / "labels.npy", np.asarray(labels, np.int64))
    write_json(
        folder / "manifest.json",
        {
            "name": name,
            "count": len(files),
            "classes": list(classes),
            "arrays": ["input"],
            "normalization": {"input": {"mean": list(mean), "std": list(std)}},
            "sources": [file_sha256(file) for file in files],
            "notes": [],
            "content": "written-by-hand",
        },
    )
    return PreparedSplit.load(folder)


def elpv_split(folder: Path, count: int | None, size: int, name: str = "train") -> PreparedSplit:
    """The first ``count`` images of an ELPV split, every k-th so that both classes are in."""
    from pqbench.data.elpv import Elpv

    index = Elpv().index()
    split = index.split(name)
    picked = np.linspace(0, len(split) - 1, count or len(split)).astype(int)
    return write_prepared(
        folder,
        [split.files[i] for i in picked],
        [split.labels[i] for i in picked],
        index.classes,
        size,
        name,
    )


def by_brightness(split: PreparedSplit, folder: Path) -> PreparedSplit:
    """The same images with labels that can be learned in seconds: brighter than most, or not."""
    for file in split.folder.iterdir():
        os.link(file, folder / file.name)
    means = np.asarray(split.stored("input")).mean(axis=(1, 2, 3))
    (folder / "labels.npy").unlink()
    np.save(folder / "labels.npy", (means > np.median(means)).astype(np.int64))
    return PreparedSplit.load(folder)
