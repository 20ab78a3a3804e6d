"""Batches for training, straight from the memory-mapped uint8 images of a prepared split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.layers import feed_tensors, first_output

if TYPE_CHECKING:
    from torch import Tensor, nn

Batch = tuple["tuple[Tensor, ...]", "Tensor"]

SHIFT = 1 / 8  # of the side, each way: 4 of CIFAR's 32 pixels (He et al. 2015, section 4.2)
# Szegedy et al. 2014, "Going deeper with convolutions", show 8 % of the area and more, in hundreds
# of passes; trainings after a compression are shorter.
LEAST_AREA, ASPECT = 0.25, 4 / 3


@dataclass(frozen=True)
class Draws:
    """What was drawn for each image of a batch.

    Attributes:
        turns: A number from 0 to 7 (n,): see :func:`augmented`.
        boxes: The part that is shown (n, 4): see :func:`boxes`; None: the whole.
    """

    turns: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64] | None

    def share(self, rank: int, world: int) -> Draws:
        """Every ``world``-th from ``rank`` on."""
        parts = None if self.boxes is None else self.boxes[rank::world]
        return Draws(self.turns[rank::world], parts)


@dataclass
class Batches:
    """An iterable of ``(inputs, labels)``; each pass is another seeded shuffle and augmentation.

    Attributes:
        split: The prepared train split.
        indices: Which of its samples.
        batch_size: Samples per batch. A last batch below half of that is left out, because its
            BatchNorm statistics would be noise; the next shuffle leaves out others.
        train_size: Side to which images are resized (bilinear, antialiased); None keeps theirs.
        augment: One of :class:`pqbench.core.preprocess.Augment`.
        seed: With the number of the pass it fixes order and augmentation.
        shuffle: False for validation: in order, nothing left out.
        passes: Passes begun so far.
        rank: Which of ``world`` equal shares of each batch is taken; order and augmentation are
            those of the whole batch.
        small_passes: Passes at ``train_size``, after which images keep their own; None: all.
        world: Number of shares. While training, images that do not fill all alike are left out.
    """

    split: PreparedSplit
    indices: npt.NDArray[np.int64]
    batch_size: int
    train_size: int | None
    augment: str
    seed: int
    shuffle: bool = True
    passes: int = 0
    rank: int = 0
    world: int = 1
    small_passes: int | None = None

    @property
    def side(self) -> int | None:
        """Side to which the images of the pass that runs are resized; None keeps theirs."""
        if self.small_passes is not None and self.passes > self.small_passes:
            return None
        return self.train_size

    def sizes(self) -> list[int]:
        """Number of samples in each batch of a pass."""
        whole, rest = divmod(len(self.indices), self.batch_size)
        keep_rest = rest and (not self.shuffle or not whole or rest >= max(2, self.batch_size / 2))
        rest -= rest % self.world
        return [self.batch_size] * whole + ([rest] if keep_rest and rest else [])

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[Batch]:

        rng = np.random.default_rng((self.seed, self.passes))
        self.passes += 1
        order = rng.permutation(self.indices) if self.shuffle else self.indices
        labels = self.split.labels()
        start = 0
        for size in self.sizes():
            picked = order[start : start + size]
            start += size
            draws = Draws(rng.integers(0, 8, size), boxes(rng, size, self.augment))
            if self.world > 1:
                picked, draws = picked[self.rank :: self.world], draws.share(self.rank, self.world)
            inputs = tuple(self._input(name, picked, draws) for name in self.split.arrays)
            yield inputs, self._labels(labels, picked, draws)

    def _labels(
        self, labels: npt.NDArray[Any], picked: npt.NDArray[np.int64], draws: Draws
    ) -> Tensor:
        """One class per sample (n,), or per position (n, H, W): changed as the image is."""
        import torch
        from torch.nn import functional

        y = torch.from_numpy(np.asarray(labels[picked], np.int64))
        if y.ndim != 3:
            return y
        y = y.unsqueeze(1)
        side = self.side
        if side is not None and y.shape[-2:] != (side, side):
            size = (side, side)
            y = functional.interpolate(y.float(), size=size, mode="nearest-exact").long()
        y = augmented(y, draws.turns, self.augment)
        if draws.boxes is not None:
            y = cut(y.float(), draws.boxes, "nearest").long()
        return y.squeeze(1)

    def _input(self, name: str, picked: npt.NDArray[np.int64], draws: Draws) -> Tensor:
        """One input: images as float32 (n, C, H, W) in channels-last order, others as stored.

        For a file that takes channels last it is (n, H, W, C).
        """
        import torch
        from torch.nn import functional

        # A sorted gather reads a memory map forwards; the order is restored afterwards.
        ascending = np.argsort(picked)
        raw = np.empty((len(picked), *self.split.stored(name).shape[1:]), self._dtype(name))
        raw[ascending] = self.split.stored(name)[picked[ascending]]
        norm = self.split.normalization.get(name)
        if norm is None:
            return torch.from_numpy(raw)
        x = torch.from_numpy(raw).permute(0, 3, 1, 2)
        side = self.side
        if side is not None and x.shape[-2:] != (side, side):
            x = functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        x = augmented(x, draws.turns, self.augment).float()
        if draws.boxes is not None:
            x = cut(x, draws.boxes)
        mean = torch.tensor(norm.mean).view(1, -1, 1, 1)
        std = torch.tensor(norm.std).view(1, -1, 1, 1)
        x = (x / 255 - mean) / std
        form = self.split.forms.get(name)
        if form is not None and form.layout == "nhwc":
            return x.permute(0, 2, 3, 1).contiguous()
        return x.contiguous(memory_format=torch.channels_last)

    def _dtype(self, name: str) -> npt.DTypeLike:
        return self.split.stored(name).dtype


def augmented(x: Tensor, turns: npt.NDArray[np.int64], augment: str) -> Tensor:
    """Turn each image of a batch (n, C, H, W) by its own draw.

    Args:
        x: Images; left as they are.
        turns: A number from 0 to 7 per image: ``k % 4`` quarter turns (``dihedral`` on square
            images), then a left-right flip for ``k >= 4``.
        augment: ``none``, ``dihedral``, or another, which has a flip in it.
    """
    import torch

    if augment == "none":
        return x
    x = x.clone()
    draws: Any = torch.from_numpy(turns)
    if augment == "dihedral" and x.shape[-1] == x.shape[-2]:
        for quarter in (1, 2, 3):
            chosen = draws % 4 == quarter
            x[chosen] = torch.rot90(x[chosen], quarter, (2, 3))
    flipped = draws >= 4
    x[flipped] = x[flipped].flip(3)
    return x


def boxes(rng: np.random.Generator, count: int, augment: str) -> npt.NDArray[np.float64] | None:
    """The part of each image that is shown: width, height, and centre (x, y), (count, 4).

    Width and height are shares of the image's; the centre is -1 at its left or top edge, 1 at the
    right or bottom one. None where ``augment`` shows all of it; then nothing is drawn.
    """
    if augment == "shift":
        centre = 2 * rng.uniform(-SHIFT, SHIFT, (count, 2))
        return np.concatenate([np.ones((count, 2)), centre], 1)
    if augment != "crop":
        return None
    area = rng.uniform(LEAST_AREA, 1, count)
    aspect = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT), count))
    size = np.minimum(np.sqrt(np.stack([area * aspect, area / aspect], 1)), 1)
    return np.concatenate([size, rng.uniform(-1, 1, (count, 2)) * (1 - size)], 1)


def cut(
    x: Tensor, shown: npt.NDArray[np.float64], mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """The shown part of each image, as large as the image was; its edge goes on beyond the edge.

    Args:
        x: Images, float (n, C, H, W).
        shown: As :func:`boxes` gives it; a shift alone is rounded to whole pixels.
        mode: How values between pixels are found.
    """
    import torch
    from torch.nn import functional

    side = np.array([x.shape[3], x.shape[2]])
    size, centre = shown[:, :2], shown[:, 2:]
    centre = np.where(size == 1, np.round(centre * side / 2) * 2 / side, centre)
    where = np.zeros((len(shown), 2, 3), np.float32)
    where[:, [0, 1], [0, 1]], where[:, :, 2] = size, centre
    grid = functional.affine_grid(torch.from_numpy(where), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode, "border", align_corners=False)


def split_off(
    split: PreparedSplit, share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices ``(training, validation)``: disjoint, the same share of each class, seeded."""
    everything = np.arange(len(split), dtype=np.int64)
    if share == 0:
        return everything, everything[:0]
    validation = split.spread(max(1, round(share * len(split))), seed)
    return np.setdiff1d(everything, validation), validation


def check_classes(network: nn.Module, train: PreparedSplit) -> None:
    """Raise ``UnsupportedError`` unless the network gives one logit per class and label."""
    import torch

    where = train.labels().shape[1:]  # (): one label per sample; (H, W): one per pixel
    with torch.no_grad():
        output = first_output(network.eval()(*feed_tensors(train, train.arrays, slice(0, 1))))
    if output.shape != (1, len(train.classes), *where):
        raise UnsupportedError(
            f"the network's output has shape {tuple(output.shape)}, the data set has "
            f"{len(train.classes)} classes{f' at {where} positions' if where else ''}",
            hint="give the network a head for these classes first",
        )


def check_size(train_size: int | None, train: PreparedSplit) -> None:
    """Raise ``ConfigError`` where training would enlarge the images that the model is fed."""
    sides = [min(train.stored(name).shape[1:3]) for name in train.normalization]
    if train_size is not None and sides and train_size > min(sides):
        raise ConfigError(
            f"train_size={train_size} is larger than the {min(sides)} px that the model is fed",
            hint="train_size=null trains at the model's own size",
        )


def changes_size(train_size: int | None, train: PreparedSplit) -> bool:
    """Whether training at ``train_size`` shows images at another size than they are prepared."""
    shapes = [train.stored(name).shape[1:3] for name in train.normalization]
    return train_size is not None and any(s != (train_size, train_size) for s in shapes)
