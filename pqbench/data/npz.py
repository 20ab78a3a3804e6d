"""Tensors for models that are fed neither images nor texts: the user's own, in a ``.npz`` file."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.dataset import DataIndex, Split, TensorDataset
from pqbench.core.errors import ConfigError, DataError

NOTE = "inputs without labels: outputs are compared, accuracy is not known"


class Npz(TensorDataset):
    """Arrays named like the model's inputs, the samples along the first axis.

    Args:
        root: A ``.npz`` file, whose samples are taken in turns for ``val`` (compared) and
            ``train`` (calibration); or a folder with ``train.npz`` and ``val.npz``.
    """

    def __init__(self, root: str | None = None) -> None:
        if root is None:
            raise ConfigError("dataset=npz without a file", hint="set dataset.root=PATH.npz")
        self.root = Path(root)

    def index(self) -> DataIndex:
        """Count the samples.

        Raises:
            DataError: A file is missing, damaged, or its arrays have different lengths.
        """
        splits = {}
        for name in ("train", "val"):
            file, rows = self._rows(name)
            files = tuple(file / f"{i:06d}" for i in rows)
            splits[name] = Split(files, (0,) * len(files), samples=[str(f) for f in files])
        sources = tuple({self._rows(name)[0]: None for name in splits})
        return DataIndex(("none",), splits, notes=(NOTE,), sources=sources)

    def tensors(self, split: str, inputs: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
        """The arrays of the inputs.

        Raises:
            DataError: An input has none.
        """
        file, rows = self._rows(split)
        arrays = _read(file)
        absent = [spec.name for spec in inputs if spec.name not in arrays]
        if absent:
            raise DataError(
                f"{file} has no array '{absent[0]}', it has {', '.join(arrays)}",
                hint=f"the model takes {', '.join(spec.name for spec in inputs)}: "
                "numpy.savez(file, **{name: array})",
            )
        return {spec.name: arrays[spec.name][rows] for spec in inputs}

    def _rows(self, split: str) -> tuple[Path, list[int]]:
        file = self.root / f"{split}.npz" if self.root.is_dir() else self.root
        lengths = {len(array) if array.ndim else 0 for array in _read(file).values()}
        if len(lengths) != 1:
            raise DataError(
                f"{file}: its arrays have {sorted(lengths)} rows",
                hint="every array holds the same number of samples along its first axis",
            )
        count = lengths.pop()
        if self.root.is_dir():
            return file, list(range(count))
        if count < 2:
            raise DataError(
                f"{file} holds {count} sample", hint="give at least 2: one calibrates, one is run"
            )
        return file, list(range(1 if split == "train" else 0, count, 2))


def _read(file: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {file}: {error}", hint="write it with numpy.savez(file, name=array)"
        ) from error
