"""What a data set is to pqbench: named splits of files with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pqbench.errors import DataError


@dataclass(frozen=True)
class Split:
    """Files and labels of one split, in a fixed order.

    Attributes:
        files: One path per sample.
        labels: One class index per sample, into ``DataIndex.classes``.
        notes: Facts that belong in every record made with this split (a known leak, say).
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if len(self.files) != len(self.labels):
            raise DataError(f"{len(self.files)} files but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class DataIndex:
    """A data set's classes and splits.

    Attributes:
        classes: Human-readable class names; a label is an index into them.
        splits: Split by name: ``train`` (fitting and calibration), ``val`` and others (scored).
            They may overlap: ``prepare`` can leave one's samples out of another.
        imagenet_indices: For data sets whose classes are ImageNet-1k classes: each class's index
            in the 1000-way output of an ImageNet model; None otherwise.
        notes: Facts that belong in every record made with this data, whichever split.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    imagenet_indices: tuple[int, ...] | None = None
    notes: tuple[str, ...] = field(default=())

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            DataError: There is none, or it is empty.
        """
        if name not in self.splits:
            raise DataError(f"no split '{name}'; there are: {', '.join(self.splits)}")
        split = self.splits[name]
        if not len(split):
            raise DataError(f"split '{name}' holds no images")
        return split


class Dataset(Protocol):
    """Anything with an ``index``; named by ``_target_`` in ``conf/dataset/*.yaml``."""

    def index(self) -> DataIndex:
        """List files and labels without decoding images."""
        ...
