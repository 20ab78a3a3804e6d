"""Calibration batches kept beside an ONNX file, for a runtime that calibrates while it builds.

``calibration/manifest.json`` and one ``calibration/<position>.npy`` per model input, no pickles.
They are no part of what is deployed: ``Artifact.model_files`` leaves them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import CALIBRATION, Artifact
from pqbench.core.files import write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CalibrationBatches:
    """Calibration samples on disk, memory-mapped.

    Attributes:
        folder: Holds the manifest and the arrays.
        names: The model's inputs, in the arrays' order.
        shapes: Of one sample of each input.
        batch_size: Samples per batch; every batch is full.
        count: Number of samples.
        content: SHA-256 over names, batch size and all values.
    """

    folder: Path
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    batch_size: int
    count: int
    content: str

    @classmethod
    def load(cls, artifact: Artifact) -> CalibrationBatches:
        """The batches of an ``onnx_calibrated`` artifact."""
        folder = artifact.folder / CALIBRATION
        value: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            names=tuple(value["names"]),
            shapes=tuple(tuple(shape) for shape in value["shapes"]),
            batch_size=value["batch_size"],
            count=value["count"],
            content=value["content"],
        )

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Batches in order, (batch_size, ...) per input, C-contiguous; one in memory at a time."""
        arrays = {
            name: np.load(self.folder / f"{i}.npy", mmap_mode="r", allow_pickle=False)
            for i, name in enumerate(self.names)
        }
        for start in range(0, self.count, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield {name: np.array(array[rows], order="C") for name, array in arrays.items()}


def write_batches(
    artifact_folder: Path,
    names: tuple[str, ...],
    samples: Iterable[Mapping[str, npt.NDArray[Any]]],
    count: int,
    batch_size: int,
) -> CalibrationBatches:
    """Write samples as they come; none but the one at hand is in memory.

    Args:
        artifact_folder: Folder of the model; its subfolder ``calibration`` is made.
        names: The model's inputs.
        samples: ``count`` samples, (1, ...) per input.
        count: A multiple of ``batch_size``.
        batch_size: Samples per batch.
    """
    if count < 1 or count % batch_size:
        raise ValueError(f"{count} samples are not whole batches of {batch_size}")
    folder = artifact_folder / CALIBRATION
    folder.mkdir()
    digest = hashlib.sha256(json.dumps([names, batch_size, count]).encode())
    shapes: list[tuple[int, ...]] = []
    files = [(folder / f"{i}.npy").open("wb") for i in range(len(names))]
    try:
        for number, sample in enumerate(samples):
            for name, file in zip(names, files, strict=True):
                array = np.ascontiguousarray(sample[name])
                if number == 0:
                    shapes.append(array.shape[1:])
                    head = {
                        "descr": np.lib.format.dtype_to_descr(array.dtype),
                        "fortran_order": False,
                        "shape": (count, *array.shape[1:]),
                    }
                    np.lib.format.write_array_header_2_0(file, head)
                file.write(array.data)
                digest.update(array.data)
    finally:
        for file in files:
            file.close()
    digest.update(json.dumps(shapes).encode())
    made = CalibrationBatches(folder, names, tuple(shapes), batch_size, count, digest.hexdigest())
    value = asdict(made)
    del value["folder"]
    write_json(folder / MANIFEST, value)
    return made
