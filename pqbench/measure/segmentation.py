"""Accuracy of dense prediction: mean intersection over union, and its change against a baseline.

Intervals come from resampling whole images (Efron 1979, the bootstrap): pixels of one image are not
independent, so an interval from pixel counts would be far too narrow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import DataError
from pqbench.core.record import Accuracy, AgainstBaseline
from pqbench.core.split import IGNORED, PreparedSplit

RESAMPLES = 2000
SEED = 0
Counts = npt.NDArray[np.int64]


def confusion(
    prediction: npt.NDArray[np.integer], label: npt.NDArray[np.integer], classes: int
) -> Counts:
    """Pixels by true class (row) and predicted class (column); ignored pixels do not count.

    Args:
        prediction: (H, W).
        label: (H, W); ``IGNORED`` where there is no class.
        classes: Number of classes.
    """
    valid = label != IGNORED
    pairs = label[valid].astype(np.int64) * classes + prediction[valid]
    counts: Counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return counts


def iou(matrix: Counts) -> npt.NDArray[np.float64]:
    """Intersection over union of each class, (..., C) from (..., C, C); NaN where none occurs."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix.sum(-2) - right
    ratio: npt.NDArray[np.float64] = np.full_like(right, np.nan)
    np.divide(right, union, out=ratio, where=union > 0)
    return ratio


def mean_iou(matrix: Counts) -> npt.NDArray[np.float64]:
    """Mean of the classes that occur among labels or predictions, (...,) from (..., C, C)."""
    values = iou(matrix)
    present = ~np.isnan(values)
    count = np.maximum(present.sum(-1), 1)
    mean: npt.NDArray[np.float64] = np.where(present, values, 0.0).sum(-1) / count
    return mean


def pixel_accuracy(matrix: Counts) -> npt.NDArray[np.float64]:
    """Share of pixels right, (...,) from (..., C, C)."""
    right = np.diagonal(matrix, axis1=-2, axis2=-1).sum(-1)
    share: npt.NDArray[np.float64] = right / np.maximum(matrix.sum((-2, -1)), 1)
    return share


def load_maps(path: Path, split: PreparedSplit) -> npt.NDArray[np.integer]:
    """Saved class maps, (count, H, W).

    Raises:
        DataError: The file is missing, or its shape is not the labels'.
    """
    try:
        maps: npt.NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the outputs {path}: {error}") from error
    wanted = split.labels().shape
    if maps.shape != wanted or not np.issubdtype(maps.dtype, np.integer):
        raise DataError(
            f"{path} has shape {maps.shape} ({maps.dtype}), expected class maps {wanted}",
            hint="the model's first output must be (N, classes, H, W), H and W the input's",
        )
    return maps


def _per_image(maps: npt.NDArray[np.integer], split: PreparedSplit) -> Counts:
    classes, labels = len(split.classes), split.labels()
    highest = int(maps.max())
    if highest >= classes:
        raise DataError(
            f"the model predicts class {highest}, the data set has {classes} classes",
            hint="the model's head must have one channel per class of the data set",
        )
    return np.stack([confusion(m, y, classes) for m, y in zip(maps, labels, strict=True)])


def _interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _resampled(*per_image: Counts) -> tuple[Counts, ...]:
    """Total confusion of the same resampled images, (RESAMPLES, C, C), for each model."""
    rng = np.random.default_rng(SEED)
    count = len(per_image[0])
    weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return tuple(np.einsum("rn,nij->rij", weights, matrices) for matrices in per_image)


def compare(ours: Counts, theirs: Counts, agreement: float) -> AgainstBaseline:
    """Drop of mean IoU with a paired bootstrap interval.

    Args:
        ours: Confusion per image of the candidate, (n, C, C).
        theirs: Of the baseline, on the same images.
        agreement: Share of scored pixels with the same prediction.
    """
    drop = float(mean_iou(theirs.sum(0)) - mean_iou(ours.sum(0)))
    drawn_ours, drawn_theirs = _resampled(ours, theirs)
    low, high = _interval(mean_iou(drawn_theirs) - mean_iou(drawn_ours))
    return AgainstBaseline(100 * drop, 100 * low, 100 * high, None, agreement, metric="miou")


def save_predictions(per_image: Counts, split: PreparedSplit, path: Path) -> None:
    """Write one row per image: index, pixel accuracy, mean IoU, source (SHA-256)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "index": pa.array(np.arange(split.count), pa.int32()),
            "pixel_accuracy": pa.array(pixel_accuracy(per_image), pa.float32()),
            "miou": pa.array(mean_iou(per_image), pa.float32()),
            "source": pa.array(split.sources, pa.string()),
        }
    )
    pq.write_table(table, path, compression="zstd")


def score(
    outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None = None
) -> Accuracy:
    """Score saved class maps, and compare them with the baseline's.

    ``top1`` is the share of pixels right, ``macro_f1`` the mean of F1 (Dice) over the classes.

    Args:
        outputs: ``.npy`` (count, H, W), the class of each pixel, in the order of the split.
        split: The scored split.
        predictions: Parquet file to write, one row per image.
        baseline: The baseline's class maps on the same split.

    Raises:
        DataError: Outputs and labels do not fit.
    """
    maps = load_maps(outputs, split)
    per_image = _per_image(maps, split)
    total = per_image.sum(0)
    save_predictions(per_image, split, predictions)
    (drawn,) = _resampled(per_image)
    accuracy_low, accuracy_high = _interval(pixel_accuracy(drawn))
    miou_low, miou_high = _interval(mean_iou(drawn))
    by_class = iou(total)
    present = ~np.isnan(by_class)
    against = None
    if baseline is not None:
        theirs = load_maps(baseline, split)
        scored = np.asarray(split.labels()) != IGNORED
        against = compare(
            per_image, _per_image(theirs, split), float(np.mean((maps == theirs)[scored]))
        )
    return Accuracy(
        split=split.name,
        count=split.count,
        top1=float(pixel_accuracy(total)),
        top1_low=accuracy_low,
        top1_high=accuracy_high,
        macro_f1=float(np.mean(2 * by_class[present] / (1 + by_class[present]))),
        top5=None,
        against_baseline=against,
        metric="miou",
        miou=float(mean_iou(total)),
        miou_low=miou_low,
        miou_high=miou_high,
        class_iou={
            name: float(value)
            for name, value in zip(split.classes, by_class, strict=True)
            if not np.isnan(value)
        },
    )
