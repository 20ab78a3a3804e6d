"""Accuracy of the timed session from its saved outputs, and the paired comparison of two models.

All figures divide by what was scored. Two models are compared on the same samples, image by image:
that finds a difference of a few images which two separate accuracies cannot show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.proportions import mcnemar_p, paired_difference, wilson
from pqbench.core.record import Accuracy, AgainstBaseline
from pqbench.core.split import PreparedSplit
from pqbench.measure.faithfulness import class_mean_intervals, faithfulness

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
LOGITS, PROBABILITIES, CLASS_IDS = "logits", "probabilities", "class_ids"


def top_k(logits: Logits, labels: Labels, k: int) -> float:
    """Share of samples whose label is among the ``k`` highest outputs."""
    highest = np.argpartition(logits, -k, axis=1)[:, -k:]
    return float(np.mean((highest == labels[:, None]).any(axis=1)))


def compare(predictions: Labels, baseline: Labels, labels: Labels) -> AgainstBaseline:
    """Compare two models on the same samples.

    Args:
        predictions: Of the candidate, (n,).
        baseline: Of the baseline, (n,).
        labels: True classes, (n,).
    """
    ours, theirs = predictions == labels, baseline == labels
    count = len(labels)
    lost, gained = int(np.sum(theirs & ~ours)), int(np.sum(ours & ~theirs))
    low, high = paired_difference(lost, gained, count)
    return AgainstBaseline(
        drop_pt=100 * (lost - gained) / count,
        drop_low_pt=100 * low,
        drop_high_pt=100 * high,
        mcnemar_p=mcnemar_p(lost, gained),
        agreement=float(np.mean(predictions == baseline)),
        p=mcnemar_p(lost, gained),
        test="McNemar, exact",
        lost=lost,
        gained=gained,
    )


def load_logits(path: Path, count: int) -> Logits:
    """Saved outputs of a classifier, (count, classes) float32.

    Raises:
        DataError: The file is missing, or holds another number of samples, or no classes.
        PqbenchError: Outputs are not finite.
    """
    try:
        logits: Logits = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the outputs {path}: {error}") from error
    if logits.ndim != 2 or len(logits) != count:
        raise DataError(
            f"{path} has shape {logits.shape}, expected ({count}, classes)",
            hint="the model's first output must hold one score per class",
        )
    broken = int(np.sum(~np.isfinite(logits).all(axis=1)))
    if broken:
        raise PqbenchError(
            f"the model gives infinities or not-a-number for {broken} of {count} samples",
            hint="a 16-bit or integer range was exceeded: try another precision or calibration",
        )
    return logits


def _probability(logits: Logits, predictions: Labels, kind: str) -> npt.NDArray[np.float32] | None:
    """Probability of the predicted class: softmax of logits, what the model says if it says one."""
    if kind == CLASS_IDS:
        return None
    if kind == PROBABILITIES:
        return np.take_along_axis(logits, predictions[:, None], axis=1)[:, 0].astype(np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    chosen = np.take_along_axis(shifted, predictions[:, None], axis=1)[:, 0]
    return np.asarray(chosen / shifted.sum(axis=1), np.float32)


def _names(split: PreparedSplit, indices: npt.NDArray[Any]) -> list[str | None]:
    """Names of classes; None beyond those that the data set knows."""
    known = split.classes
    return [known[i] if 0 <= i < len(known) else None for i in indices.tolist()]


def save_predictions(logits: Logits, split: PreparedSplit, path: Path, kind: str = LOGITS) -> None:
    """Write one row per sample: index, path, label and prediction with their names, probability.

    ``path`` is the file's below the data set's folder, ``source`` its content's SHA-256.

    ``probability`` is the softmax of logits, the model's own figure where a softmax or sigmoid is
    at its end, and null where it gives class numbers alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    predictions = logits.argmax(axis=1)
    probability = _probability(logits, predictions, kind)
    table = pa.table(
        {
            "index": pa.array(np.arange(split.count), pa.int32()),
            "path": pa.array(split.files or [None] * split.count, pa.string()),
            "label": pa.array(np.asarray(split.labels()), pa.int32()),
            "prediction": pa.array(predictions, pa.int32()),
            "label_name": pa.array(_names(split, np.asarray(split.labels())), pa.string()),
            "prediction_name": pa.array(_names(split, predictions), pa.string()),
            "probability": (
                pa.nulls(split.count, pa.float32())
                if probability is None
                else pa.array(probability, pa.float32())
            ),
            "source": pa.array(split.sources, pa.string()),
        }
    )
    pq.write_table(table, path, compression="zstd")


def score(
    logits: Path,
    split: PreparedSplit,
    predictions: Path,
    baseline_logits: Path | None = None,
    kind: str = LOGITS,
) -> Accuracy:
    """Score a classifier's saved outputs, and compare it with its baseline.

    Args:
        logits: ``.npy`` (count, classes) float32, in the order of the split.
        split: The scored split: labels and sources.
        predictions: Parquet file to write, one row per sample.
        baseline_logits: The baseline's outputs on the same split.
        kind: What the outputs are: ``logits``, ``probabilities``, or ``class_ids`` (one column
            per class, 1 in that of the class that the model names).

    Raises:
        DataError: Outputs and labels do not fit.
        PqbenchError: Outputs are not finite.
    """
    values = load_logits(logits, split.count)
    labels = np.asarray(split.labels(), np.int64)
    classes = values.shape[1]
    if int(labels.max()) >= classes:
        raise DataError(
            f"the model has {classes} outputs, the split '{split.name}' has label {labels.max()}",
            hint="the model's head must have one output per class of the data set",
        )
    chosen = values.argmax(axis=1)
    right = int(np.sum(chosen == labels))
    low, high = wilson(right, split.count)
    save_predictions(values, split, predictions, kind)
    against, theirs = None, None
    if baseline_logits is not None:
        theirs = load_logits(baseline_logits, split.count).argmax(axis=1)
        against = compare(chosen, theirs, labels)
    means = class_mean_intervals(chosen, labels)
    f1, f1_low, f1_high = means["macro_f1"]
    probability = _probability(values, chosen, kind)
    faithful, tested = faithfulness(chosen, labels, split.classes, low, probability, theirs)
    if against is not None:
        against.classes_tested = tested
    return Accuracy(
        split=split.name,
        count=split.count,
        top1=right / split.count,
        top1_low=low,
        top1_high=high,
        macro_f1=f1,
        top5=top_k(values, labels, 5) if classes >= 6 and kind != CLASS_IDS else None,
        against_baseline=against,
        macro_f1_low=f1_low,
        macro_f1_high=f1_high,
        faithfulness=faithful,
    )
