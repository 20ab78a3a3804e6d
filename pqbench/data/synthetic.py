"""Made-up inputs for any model: for timing where no data are at hand; nothing to score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.dataset import DataIndex, Split, TensorDataset
from pqbench.core.errors import ConfigError

WORDS = 2000
TOKENS = 100  # whole numbers are drawn below it: most vocabularies hold more
NOTE = "synthetic inputs: latency, memory and size mean something, accuracy does not"


class Synthetic(TensorDataset):
    """Seeded noise: images of any size (resized to the model's), masks, or texts of random words.

    Args:
        task: ``classification``, ``segmentation`` or ``text_classification``.
        count: Samples of each split.
        classes: Number of classes; None takes 1000, which keep an ImageNet head as it is, and 21
            for segmentation, as PASCAL VOC has.
        size: Side of the images, px.
        seed: Seeds the noise.
    """

    made_up: ClassVar[bool] = True

    def __init__(
        self,
        task: str = "classification",
        count: int = 64,
        classes: int | None = None,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        if classes is None:
            classes = 21 if task == "segmentation" else 1000
        if count < 1 or classes < 2 or size < 1:
            raise ConfigError(
                f"synthetic data cannot have count={count}, classes={classes}, size={size}",
                hint="count and size must be at least 1, classes at least 2",
            )
        self.task = task
        self.count = count
        self.classes = classes
        self.size = size
        self.seed = seed

    def index(self) -> DataIndex:
        """Draw both splits."""
        indices = tuple(range(1000)) if self.classes == 1000 else None
        names = tuple(f"class {number}" for number in range(self.classes))
        splits = {name: self._split(name, k) for k, name in enumerate(("train", "val"))}
        return DataIndex(names, splits, imagenet_indices=indices, notes=(NOTE,))

    def tensors(self, split: str, inputs: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
        """Noise for any inputs.

        Floating-point values are standard normal, bytes run from 0 to 255, whole numbers below 100
        (masks are one, types of tokens zero, positions count), truth values are true.
        """
        rng = np.random.default_rng((self.seed, 0 if split == "train" else 1))
        return {spec.name: _noise(spec, self.count, rng) for spec in inputs}

    def _split(self, name: str, k: int) -> Split:
        rng = np.random.default_rng((self.seed, k))
        files = tuple(Path("synthetic") / name / f"{i:06d}" for i in range(self.count))
        labels = tuple(i % self.classes for i in range(self.count))
        if self.task == "text_classification":
            drawn = rng.integers(0, WORDS, (self.count, 64))
            lengths = rng.integers(4, 65, self.count)
            texts = [
                " ".join(f"word{w}" for w in row[:n]) for row, n in zip(drawn, lengths, strict=True)
            ]
            return Split(files, labels, samples=texts)
        shape = (self.count, self.size, self.size)
        images = list(rng.integers(0, 256, (*shape, 3), np.uint8))
        if self.task != "segmentation":
            return Split(files, labels, samples=images)
        masks = list(rng.integers(0, min(self.classes, 255), shape, np.uint8))
        return Split(files, (0,) * self.count, samples=images, masks=masks)


def _noise(spec: TensorSpec, count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    sizes = tuple(size or 1 for size in spec.shape)
    shape, kind, name = (count, *sizes), np.dtype(spec.dtype), spec.name.lower()
    if kind.kind == "f":
        return rng.standard_normal(shape).astype(kind)
    if kind.kind == "b" or "mask" in name:
        return np.ones(shape, kind)
    if kind == np.uint8:
        return rng.integers(0, 256, shape, np.uint8)
    if "type" in name or "segment" in name:
        return np.zeros(shape, kind)
    if "position" in name and sizes:
        return np.broadcast_to(np.arange(sizes[-1]), shape).astype(kind)
    return rng.integers(0, TOKENS, shape).astype(kind)
