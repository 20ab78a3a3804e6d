"""What a data set is to pqbench: named splits of files, or of samples in memory, with labels."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import DataError
from pqbench.core.files import content_sha256
from pqbench.core.paths import check_text

_READ_BYTES = 2**27
Sample = str | npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """Files (or samples in memory) and labels of one split, in a fixed order.

    Attributes:
        files: One path per sample. For samples in memory a name under the file that holds them
            (``train.tsv/17``), which need not exist.
        labels: One class index per sample, into ``DataIndex.classes``; 0 where ``masks`` hold the
            labels.
        notes: Facts that belong in every record made with this split (a known leak, say).
        samples: Samples in memory: texts, or uint8 images (H, W) or (H, W, 3); None: in ``files``.
        masks: Segmentation: each image's classes as an index image, a file or uint8 (H, W).
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())
    samples: Sequence[Sample] | None = None
    masks: Sequence[Path | npt.NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        for what in ("labels", "samples", "masks"):
            value = getattr(self, what)
            if value is not None and len(self.files) != len(value):
                raise DataError(f"{len(self.files)} files but {len(value)} {what}")

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Sequence[int], notes: tuple[str, ...] = ()) -> Split:
        """Some of the samples, in the order given, with other notes."""
        return Split(
            files=tuple(self.files[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            notes=notes,
            samples=None if self.samples is None else [self.samples[i] for i in indices],
            masks=None if self.masks is None else [self.masks[i] for i in indices],
        )


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
        sources: Files that hold samples in memory.
        ignore_index: Segmentation: value of a mask that is neither trained on nor scored.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    imagenet_indices: tuple[int, ...] | None = None
    notes: tuple[str, ...] = field(default=())
    sources: tuple[Path, ...] = field(default=())
    ignore_index: int | None = None

    def listing_hash(self) -> str:
        """Hash of every file's path and content, and of the labels.

        Of more than 128 MiB in all, size and time of change stand for a file's content: one that
        was changed to the same size and given the old time would not be seen. Files that hold
        many samples are always read.

        Raises:
            DataError: A file cannot be read, or its name is not UTF-8: records, tables and MLflow
                hold texts.
        """
        for name in self.classes:
            check_text(name, "class")
        about = [self.classes, self.imagenet_indices, self.ignore_index]
        digest = hashlib.sha256(json.dumps(about).encode())
        stamps = self._stamps()
        for path in self.sources:
            check_text(str(path))
            digest.update(f"{_stamp(path)}\n".encode())
        for name, split in sorted(self.splits.items()):
            files = list(map(str, split.files))
            if split.samples is None:
                files = [stamps[file] for file in files]
            if split.masks is not None:
                files = [
                    f"{file}:{stamps[str(mask)]}" if isinstance(mask, Path) else file
                    for file, mask in zip(files, split.masks, strict=True)
                ]
            lines = [
                f"{name}:{file}:{label}\n" for file, label in zip(files, split.labels, strict=True)
            ]
            try:
                digest.update("".join(lines).encode())
            except UnicodeEncodeError:
                for file in map(str, (*split.files, *(split.masks or ()))):
                    check_text(file)  # says which
                raise
        return digest.hexdigest()

    def _stamps(self) -> dict[str, str]:
        """What stands for the content of every file of samples and masks, by its path."""
        stats: dict[str, os.stat_result] = {}
        try:
            for split in self.splits.values():
                files = split.files if split.samples is None else ()
                masks = split.masks if split.masks is not None else ()
                for path in (*files, *(mask for mask in masks if isinstance(mask, Path))):
                    text = str(path)
                    if text not in stats:
                        stats[text] = os.stat(text)  # noqa: PTH116  # a third of Path.stat's time
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        if sum(stat.st_size for stat in stats.values()) <= _READ_BYTES:
            return {text: _stamp(Path(text)) for text in stats}
        return {text: f"{text}:{stat.st_size}:{stat.st_mtime_ns}" for text, stat in stats.items()}

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            DataError: There is none, or it is empty.
        """
        if name not in self.splits:
            raise DataError(f"no split '{name}'; there are: {', '.join(self.splits)}")
        split = self.splits[name]
        if not len(split):
            raise DataError(f"split '{name}' holds no samples")
        return split


def _stamp(path: Path) -> str:
    try:
        return f"{path}:{content_sha256(path)}"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


class Dataset(ABC):
    """Where a data set's files and labels are; named by ``_target_`` in ``conf/dataset/*.yaml``.

    Attributes:
        by_names: The index follows from the settings and from the names of the files and folders
            that it lists alone, each file in a folder of the data set's own: no file is read for
            it. Then a sweep lists it once, and anew where a folder has changed. A subclass says
            it of itself: it may read more.
    """

    by_names: ClassVar[bool] = False

    @classmethod
    def is_by_names(cls) -> bool:
        """Whether this very class says ``by_names``."""
        return bool(vars(cls).get("by_names", False))

    @abstractmethod
    def index(self) -> DataIndex:
        """List files and labels without decoding images.

        The same files give the same index, in the same order, at every call.

        Raises:
            DataError: The data is missing or not as it should be; the message says what to do.
        """


class TensorDataset(Dataset):
    """A data set that can give arrays for any inputs, for models of the task ``none``.

    Attributes:
        made_up: Its arrays follow the sizes that are asked for, also those that were assumed.
    """

    made_up: ClassVar[bool] = False

    @abstractmethod
    def tensors(self, split: str, inputs: Sequence[TensorSpec]) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays for a model's inputs.

        Args:
            split: Name of the split.
            inputs: Name, shape and type of one sample of each input.

        Returns:
            By input name, the samples along the first axis, as many as ``index`` lists.

        Raises:
            DataError: An input has no array.
        """
