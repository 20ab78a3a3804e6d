"""A model on disk in one representation, with the story of how it came to be.

An artifact is a folder: the model's files and ``artifact.json``. Stages hand artifacts to each
other as paths, never as live objects. This module knows no framework.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from pqbench.core.files import file_sha256, write_json

Representation = Literal[
    "torch",
    "torch_int8",
    "onnx",
    "onnx_calibrated",
    "openvino",
    "ncnn",
    "mnn",
    "executorch",
    "litert",
]
DESCRIPTION = "artifact.json"
RESULT = "result.json"  # what a stage's cache puts beside an artifact that it keeps
CALIBRATION = "calibration"  # folder of samples for a runtime's own calibration; not deployed


@dataclass(frozen=True)
class TensorSpec:
    """One input of a model.

    Attributes:
        name: The input's name, the same in every representation.
        shape: Sizes; None where the size is free (the batch).
        dtype: NumPy's name of the element type, ``float32`` or ``int64``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class LineageEntry:
    """One action on the way from the source model to this artifact.

    Attributes:
        action: What was done: ``source``, ``fit``, ``export``, ``convert``, or a step's name.
        seconds: Wall time of the action, without starting its process.
        config: The action's own settings.
        details: What it found or achieved: sparsity, calibration size, parity, loss, ...
    """

    action: str
    seconds: float
    config: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A model on disk.

    Attributes:
        representation: Format family; ``onnx_calibrated`` is ``onnx`` with calibration samples
            beside it, for a runtime that calibrates while it builds.
        folder: The folder that holds everything.
        file: Name of the main file inside ``folder``.
        inputs: The model's inputs, in order.
        outputs: The outputs' names, in order.
        lineage: All actions so far, oldest first.
    """

    representation: Representation
    folder: Path
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    lineage: tuple[LineageEntry, ...] = ()

    @property
    def path(self) -> Path:
        """The main file."""
        return self.folder / self.file

    def derive(
        self,
        folder: Path,
        file: str,
        entry: LineageEntry,
        representation: Representation | None = None,
    ) -> Self:
        """A new artifact made from this one by ``entry``; ``artifact.json`` goes to ``folder``."""
        new = replace(
            self,
            representation=representation or self.representation,
            folder=folder,
            file=file,
            lineage=(*self.lineage, entry),
        )
        new.save()
        return new

    def save(self) -> None:
        """Write ``artifact.json`` beside the model's files."""
        value = asdict(self)
        del value["folder"]
        write_json(self.folder / DESCRIPTION, value)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read ``artifact.json`` of a folder."""
        folder = Path(folder)
        value = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return cls(
            representation=value["representation"],
            folder=folder,
            file=value["file"],
            inputs=tuple(
                TensorSpec(i["name"], tuple(i["shape"]), i["dtype"]) for i in value["inputs"]
            ),
            outputs=tuple(value["outputs"]),
            lineage=tuple(LineageEntry(**entry) for entry in value["lineage"]),
        )

    def model_files(self) -> list[Path]:
        """The files that a deployment needs: all but pqbench's own and calibration samples."""
        calibration = self.folder / CALIBRATION
        return [path for path in self._files() if calibration not in path.parents]

    def _files(self) -> list[Path]:
        ours = {self.folder / DESCRIPTION, self.folder / RESULT}
        return sorted(p for p in self.folder.rglob("*") if p.is_file() and p not in ours)

    def content_hash(self) -> str:
        """SHA-256 over names and contents of all files; the lineage does not enter."""
        digest = hashlib.sha256(self.representation.encode())
        for path in self._files():
            digest.update(f"{path.relative_to(self.folder)}:{file_sha256(path)};".encode())
        return digest.hexdigest()
