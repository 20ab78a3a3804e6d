"""Accuracy of dense prediction: mean intersection over union, and its change against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import DataError
from pqbench.core.proportions import constant_score
from pqbench.core.record import (
    NOT_BETTER,
    Accuracy,
    AgainstBaseline,
    ClassScore,
    Faithfulness,
)
from pqbench.core.split import IGNORED, PreparedSplit
from pqbench.measure.faithfulness import answer_faults, lost_classes, mark_lost, shown
from pqbench.measure.overlap import (
    Counts,
    iou,
    jackknife,
    mean_dice,
    mean_iou,
    overlap,
    pixel_accuracy,
    share_interval,
)

MIN_IMAGES = 3  # of each class: with fewer an interval of the mean over classes cannot be told


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
    return np.stack([overlap(m, y, classes) for m, y in zip(maps, labels, strict=True)])


def too_few(per_image: Counts, names: Sequence[str]) -> str:
    """Why the intervals of means over classes cannot be trusted; empty if they can."""
    images = (per_image[..., 1] > 0).sum(0)
    rare = [names[int(i)] for i in np.flatnonzero((images > 0) & (images < MIN_IMAGES))]
    if not rare and len(per_image) >= MIN_IMAGES:
        return ""
    what = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
    return f"too few images ({len(per_image)})" + (
        f": {what} occur{'s' if len(rare) == 1 else ''} in fewer than {MIN_IMAGES}" if rare else ""
    )


def _drop(both: Counts) -> npt.NDArray[np.float64]:
    """Baseline's mean IoU minus the candidate's, (...,) from (..., 2, C, 3)."""
    means = mean_iou(both)
    drop: npt.NDArray[np.float64] = means[..., 1] - means[..., 0]
    return drop


def compare(ours: Counts, theirs: Counts, agreement: float, few: bool = False) -> AgainstBaseline:
    """Drop of mean IoU with a paired interval by image.

    Args:
        ours: Counts by image of the candidate, (n, C, 3).
        theirs: Of the baseline, on the same images.
        agreement: Share of scored pixels with the same prediction.
        few: There are too few images to judge: no p value.
    """
    drop = float(mean_iou(theirs.sum(0)) - mean_iou(ours.sum(0)))
    found = jackknife(_drop, np.stack([ours, theirs], 1))
    low, high = found.interval() if found is not None else (-1.0, 1.0)
    judged = found if not few else None
    return AgainstBaseline(
        100 * drop,
        100 * max(low, -1.0),
        100 * min(high, 1.0),
        None,
        agreement,
        metric="miou",
        p=None if judged is None else judged.p_equal(),
        test="" if judged is None else "Student's t, jackknife by image",
        error_pt=None if judged is None else 100 * judged.error,
        dof=None if judged is None else judged.dof,
    )


def class_scores(
    ours: Counts, names: Sequence[str], theirs: Counts | None = None
) -> list[ClassScore]:
    """IoU of every class that occurs in the labels, paired with the baseline's by image."""
    scores, images = [], (ours[..., 1] > 0).sum(0)
    for index in (int(i) for i in np.flatnonzero(images)):
        enough = images[index] >= MIN_IMAGES
        mine = ours[:, index : index + 1]
        low, high = share_interval(jackknife(mean_iou, mine)) if enough else (None, None)
        score = ClassScore(
            names[index], int(images[index]), float(mean_iou(mine.sum(0))), low, high
        )
        if theirs is not None:
            other = theirs[:, index : index + 1]
            score.baseline = float(mean_iou(other.sum(0)))
            change = jackknife(_drop, np.stack([mine, other], 1)) if enough else None
            score.p = None if change is None else change.p_equal()
        scores.append(score)
    mark_lost(scores)
    return scores


def look(
    ours: Counts, names: Sequence[str], miou_low: float, theirs: Counts | None
) -> tuple[Faithfulness, int]:
    """Look at the class maps class by class; see :mod:`pqbench.measure.faithfulness`.

    Returns:
        What was found, and how many classes' drops were tested.
    """
    total = ours.sum(0)
    labelled, answered = total[:, 1], total[:, 2]
    common, pixels = int(answered.argmax()), float(labelled.sum())
    constant, share = constant_score(labelled.tolist())
    present = int(np.sum(labelled > 0))
    constant_miou = share / present  # the class itself; every other class gets 0
    scores = class_scores(ours, names, theirs)
    recall = total[labelled > 0, 0] / labelled[labelled > 0]
    rate, true_rate = answered[common] / pixels, labelled[common] / pixels
    faults = answer_faults(names[common], rate, true_rate, len(ours))
    if not faults and miou_low <= constant_miou < 1:
        faults.append(
            f"{NOT_BETTER} than always answering '{names[constant]}' ({constant_miou:.1%} mIoU)"
        )
    faults += lost_classes(scores, "IoU")
    found = Faithfulness(
        answer=names[common],
        answer_rate=rate,
        constant_answer=names[constant],
        constant_score=constant_miou,
        balanced_accuracy=float(recall.mean()),
        classes=shown(scores),
        faults=faults,
    )
    return found, sum(score.p is not None for score in scores)


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
    names = list(split.classes)
    few = too_few(per_image, names)
    accuracy_low, accuracy_high = share_interval(jackknife(pixel_accuracy, per_image))
    miou_low, miou_high = share_interval(jackknife(mean_iou, per_image))
    f1_low, f1_high = share_interval(jackknife(mean_dice, per_image))
    by_class = iou(total)
    against, other = None, None
    if baseline is not None:
        theirs = load_maps(baseline, split)
        scored = np.asarray(split.labels()) != IGNORED
        other = _per_image(theirs, split)
        agreement = float(np.mean((maps == theirs)[scored]))
        against = compare(per_image, other, agreement, bool(few))
    found, tested = look(per_image, names, miou_low, other)
    if against is not None:
        against.classes_tested = tested
    return Accuracy(
        split=split.name,
        count=split.count,
        top1=float(pixel_accuracy(total)),
        top1_low=accuracy_low,
        top1_high=accuracy_high,
        macro_f1=float(mean_dice(total)),
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
        macro_f1_low=f1_low,
        macro_f1_high=f1_high,
        too_few=few,
        faithfulness=found,
    )
