"""Calibration images for post-training quantization, drawn from the train split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx


@dataclass(frozen=True)
class Calibration:
    """A fixed choice of training images, fed one at a time.

    One at a time, because a batch would blur the per-image statistics that some methods average,
    and because a model may have its batch fixed to 1.

    Attributes:
        split: The train split.
        names: The model's inputs.
        indices: Which images, ascending.
    """

    split: PreparedSplit
    names: tuple[str, ...]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def feed(self, position: int) -> dict[str, npt.NDArray[Any]]:
        """Model inputs for one image, batch 1."""
        index = int(self.indices[position])
        arrays = self.split.feed(slice(index, index + 1))
        return {name: arrays[name] for name in self.names}

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        return (self.feed(position) for position in range(len(self)))

    def details(self) -> dict[str, Any]:
        """For the lineage: how many images, from where, and the hash of which."""
        chosen = "\n".join(self.split.sources[int(i)] for i in self.indices)
        return {
            "calibration_size": len(self),
            "calibration_split": self.split.name,
            "calibration_content": self.split.content,
            "calibration_sources_sha256": hashlib.sha256(chosen.encode()).hexdigest(),
        }


def draw(artifact: Artifact, data: StepData, size: int) -> Calibration:
    """Draw ``size`` training images, the same share of each class, seeded.

    Raises:
        UnsupportedError: The model has an input that the data set does not feed.
    """
    names = tuple(spec.name for spec in artifact.inputs)
    absent = [name for name in names if name not in data.train.arrays]
    if absent:
        raise UnsupportedError(
            f"the model's input {', '.join(absent)} is not in the prepared data, which has "
            f"{', '.join(data.train.arrays)}",
            hint="choose a data set for this model's task",
        )
    return Calibration(data.train, names, data.train.spread(size, data.seed))


def check_size(size: int) -> None:
    """Raise ``ConfigError`` unless at least one image is asked for."""
    if size < 1:
        raise ConfigError(f"calibration_size must be at least 1, got {size}")


def refuse_quantized(model: onnx.ModelProto, step: str) -> None:
    """Raise ``UnsupportedError`` if an ONNX model holds Q/DQ or integer operators already."""
    marks = ("QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger")
    found = sorted({node.op_type for node in model.graph.node if node.op_type.startswith(marks)})
    if found:
        raise UnsupportedError(
            f"{step}: the model is quantized already ({', '.join(found)})",
            hint="start from the float model",
        )
