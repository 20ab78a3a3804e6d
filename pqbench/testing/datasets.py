"""Whether a data set's index holds together, and its files can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.dataset import DataIndex, Dataset, Sample, Split
from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.files import file_sha256
from pqbench.testing.require import BrokenContract, instance, require, sentences

_READ = 8  # samples of each split that are opened
_HASHED = 2000  # in data sets up to this size, copies of a file under another name are found
_IMAGENET = 1000


def check_dataset(dataset: Dataset | type[Dataset], train: str = "train") -> None:
    """List a data set twice, check every label, and read samples of every split.

    Args:
        dataset: The data set with its settings, or a class that needs none.
        train: Name of the split that is fitted and calibrated on.

    Raises:
        BrokenContract: The index is not well-formed, changes from call to call, or a sample cannot
            be read.
    """
    made = instance(dataset, Dataset)
    who = type(made).__name__
    try:
        index, again = made.index(), made.index()
    except PqbenchError as error:
        raise BrokenContract(f"{who}.index() refuses: {error}") from error
    require(
        isinstance(index, DataIndex), f"{who}.index() gave {type(index).__name__}, no DataIndex"
    )
    _check_classes(who, index)
    require(train in index.splits, f"{who} has no split '{train}', only {list(index.splits)}")
    scored = [name for name in index.splits if name != train]
    require(bool(scored), f"{who} has no split to score beside '{train}'")
    for name, split in index.splits.items():
        _check_split(f"{who}, split '{name}'", index, split)
    try:
        same = index.listing_hash() == again.listing_hash()
    except DataError as error:
        raise BrokenContract(f"{who}: {error}") from error
    require(same, f"{who}.index() lists other samples, or in another order, the second time")
    for name in scored:
        _check_apart(who, index, train, name)


def _check_classes(who: str, index: DataIndex) -> None:
    count = len(index.classes)
    require(count >= 2, f"{who} has {count} classes, at least 2 are needed")
    sentences(who, "classes", index.classes)
    require(len(set(index.classes)) == count, f"{who}: two classes have the same name")
    sentences(who, "notes", index.notes)
    indices = index.imagenet_indices
    if indices is not None:
        require(len(indices) == count, f"{who}: {len(indices)} imagenet_indices, {count} classes")
        fine = all(0 <= i < _IMAGENET for i in indices) and len(set(indices)) == count
        require(fine, f"{who}: imagenet_indices must be {count} different numbers in 0..999")


def _check_split(who: str, index: DataIndex, split: Split) -> None:
    require(len(split) > 0, f"{who} is empty")
    sentences(who, "notes", split.notes)
    twice = len(split.files) - len(set(split.files))
    require(twice == 0, f"{who} names {twice} files twice")
    count = len(index.classes)
    for file, label in zip(split.files, split.labels, strict=True):
        fits = isinstance(label, int | np.integer) and 0 <= label < count
        require(fits, f"{who}: {file} has label {label!r}, there are classes 0..{count - 1}")
    if split.samples is None:
        absent = [file for file in split.files if not file.is_file()]
        require(not absent, f"{who}: {len(absent)} files do not exist, the first: {absent[:1]}")
    for i in sorted({*range(min(_READ, len(split))), len(split) - 1}):
        size = _read(f"{who}, {split.files[i]}", split, i)
        if split.masks is not None:
            _check_mask(f"{who}, mask of {split.files[i]}", index, split.masks[i], size)


def _read(who: str, split: Split, i: int) -> tuple[int, int] | None:
    """Read one sample; gives an image's height and width in px."""
    from PIL import Image

    if split.samples is None:
        try:
            with Image.open(split.files[i]) as image:
                image.load()
                return image.height, image.width
        except OSError as error:
            raise BrokenContract(f"{who} cannot be read as an image: {error}") from error
    sample: Sample = split.samples[i]
    if isinstance(sample, str):
        require(bool(sample.strip()), f"{who} is an empty text")
        return None
    fits = sample.dtype == np.uint8 and (sample.ndim == 2 or sample.shape[2:] == (3,))
    require(fits, f"{who} is {sample.dtype} {sample.shape}; uint8 (H, W) or (H, W, 3) is wanted")
    return sample.shape[0], sample.shape[1]


def _check_mask(
    who: str, index: DataIndex, mask: Path | npt.NDArray[Any], size: tuple[int, int] | None
) -> None:
    from PIL import Image

    if isinstance(mask, Path):
        try:
            with Image.open(mask) as image:
                values = np.asarray(image)
        except OSError as error:
            raise BrokenContract(f"{who} cannot be read as an image: {error}") from error
    else:
        values = mask
    require(values.shape == size, f"{who} has shape {values.shape}, its image {size}")
    found = {int(value) for value in np.unique(values)} - {index.ignore_index}
    odd = sorted(value for value in found if not 0 <= value < len(index.classes))
    require(not odd, f"{who} holds {odd[:5]}, which are neither classes nor ignore_index")


def _check_apart(who: str, index: DataIndex, train: str, scored: str) -> None:
    """Samples that are trained on and scored must at least be declared: see ``notes``."""
    ours, theirs = index.split(train), index.split(scored)
    known = set(_identities(theirs))
    shared = [i for i, identity in enumerate(_identities(ours)) if identity in known]
    told = index.notes or theirs.notes or ours.notes
    first = ours.files[shared[0]] if shared else ""
    require(
        not shared or bool(told),
        f"{who}: {len(shared)} samples are in '{train}' and in '{scored}', the first: {first}; "
        "take them out, or say so in the notes",
    )
    require(len(shared) < len(ours), f"{who}: all samples of '{train}' are in '{scored}' as well")


def _identities(split: Split) -> list[object]:
    from pqbench.data.subset import content_key

    if split.samples is not None:
        return [content_key(sample) for sample in split.samples]
    if len(split) <= _HASHED:
        return [file_sha256(file) for file in split.files]
    return list(split.files)
