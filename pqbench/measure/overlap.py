"""How far predicted and true areas overlap, class by class, and how sure a mean over images is.

Intervals come from leaving out whole images (the jackknife, Tukey 1958): pixels of one image are
not independent, so an interval from pixel counts would be far too narrow. The percentile bootstrap
by image covers 71 to 93 % at 8 to 200 images; Student's t on the jackknife's pseudo-values covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pqbench.core.split import IGNORED
from pqbench.core.statistics import Normal

Counts = npt.NDArray[np.int64]
Statistic = Callable[[Counts], npt.NDArray[np.float64]]


def overlap(
    prediction: npt.NDArray[np.integer], label: npt.NDArray[np.integer], classes: int
) -> Counts:
    """Pixels by class: right, labelled, predicted, (C, 3); ignored pixels do not count.

    Args:
        prediction: (H, W).
        label: (H, W); ``IGNORED`` where there is no class.
        classes: Number of classes.
    """
    valid = label != IGNORED
    true, ours = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    columns = (true[true == ours], true, ours)
    return np.stack([np.bincount(c, minlength=classes)[:classes] for c in columns], 1)


def iou(counts: Counts) -> npt.NDArray[np.float64]:
    """Intersection over union of each class, (..., C) from (..., C, 3); NaN where none occurs."""
    right = counts[..., 0].astype(np.float64)
    union = counts[..., 1] + counts[..., 2] - right
    ratio: npt.NDArray[np.float64] = np.full_like(right, np.nan)
    np.divide(right, union, out=ratio, where=union > 0)
    return ratio


def mean_iou(counts: Counts) -> npt.NDArray[np.float64]:
    """Mean of the classes that occur among labels or predictions, (...,) from (..., C, 3)."""
    return _mean(iou(counts))


def mean_dice(counts: Counts) -> npt.NDArray[np.float64]:
    """Mean of F1 (Dice) of the classes that occur, (...,) from (..., C, 3)."""
    values = iou(counts)
    return _mean(2 * values / (1 + values))


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(-1)
    mean: npt.NDArray[np.float64] = total / np.maximum(present.sum(-1), 1)
    return mean


def pixel_accuracy(counts: Counts) -> npt.NDArray[np.float64]:
    """Share of pixels right, (...,) from (..., C, 3)."""
    share: npt.NDArray[np.float64] = counts[..., 0].sum(-1) / np.maximum(counts[..., 1].sum(-1), 1)
    return share


def jackknife(statistic: Statistic, per_image: Counts) -> Normal | None:
    """A figure of all images together, with its standard error from leaving out one at a time.

    Student's t on the pseudo-values (Miller, Biometrika 61, 1974). Its degrees of freedom are
    those of their variance, which heavy tails make less sure: ``2 n / (kurtosis + 1 - (n - 3) /
    (n - 1))``, at most n - 1; the 1 makes up for the bias of the kurtosis of few.

    Args:
        statistic: From total counts (..., C, 3), or (..., k, C, 3) for k models, to (...,).
        per_image: Counts by image, (n, C, 3) or (n, k, C, 3).

    Returns:
        None below 3 images.
    """
    count = len(per_image)
    if count < 3:
        return None
    total = per_image.sum(0)
    value = float(statistic(total))
    pseudo = count * value - (count - 1) * statistic(total - per_image)
    spread = pseudo - pseudo.mean()
    variance = float(np.mean(spread**2))
    if variance <= 1e-24:
        return Normal(value, 0.0, count - 1)
    kurtosis = float(np.mean(spread**4)) / variance**2
    dof = min(count - 1, 2 * count / (kurtosis + 1 - (count - 3) / (count - 1)))
    return Normal(value, math.sqrt(variance / (count - 1)), dof)


def share_interval(estimate: Normal | None) -> tuple[float, float]:
    """95 % interval of a figure between 0 and 1, by t on the logistic scale; 0 and 1 for none."""
    if estimate is None:
        return 0.0, 1.0
    value = min(max(estimate.value, 1e-9), 1 - 1e-9)
    scale = value * (1 - value)
    logit = Normal(math.log(value / (1 - value)), estimate.error / scale, estimate.dof)
    low, high = (1 / (1 + math.exp(-min(max(x, -700.0), 700.0))) for x in logit.interval())
    return min(low, estimate.value), max(high, estimate.value)
