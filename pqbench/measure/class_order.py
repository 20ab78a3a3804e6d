"""Were the classes in another order when the model was trained?

A checkpoint trained with its folders in another order (2 before 10, say) scores near chance here,
and nothing fails. The confusion matrix shows it: one permutation of the classes explains nearly
all of what the model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pqbench.core.split import PreparedSplit
from pqbench.measure.accuracy import load_logits

PER_CLASS = 5  # fewer images a class than this, and a permutation explains any guess
RIGHT = 0.5
SHOWN = 30


def best_order(
    predictions: Sequence[int], labels: Sequence[int], columns: int
) -> tuple[float, list[int]]:
    """The assignment of outputs to classes that makes most predictions right.

    Solved as a linear assignment problem on the confusion matrix (Kuhn 1955).

    Args:
        predictions: Highest output of each sample, (n,).
        labels: True classes, (n,).
        columns: Number of outputs, and of classes.

    Returns:
        The share of samples that are right then, and the class of each output.
    """
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((columns, columns), np.int64)
    np.add.at(confusion, (np.asarray(predictions), np.asarray(labels)), 1)
    outputs, classes = linear_sum_assignment(confusion, maximize=True)
    share = float(confusion[outputs, classes].sum()) / max(len(labels), 1)
    return share, [int(c) for c in classes]


def order_note(outputs: Path, split: PreparedSplit) -> str | None:
    """What a record must say where another order of the classes would explain a bad accuracy.

    Args:
        outputs: Saved outputs, ``.npy`` (count, classes) float32.
        split: The scored split.

    Returns:
        None where there is nothing to say: the accuracy is good, another order would not help
        much, or there are too few images to tell.
    """
    values = load_logits(outputs, split.count)
    columns, classes = values.shape[1], len(split.classes)
    if columns != classes or split.count < PER_CLASS * classes:
        return None
    predictions, labels = values.argmax(axis=1), np.asarray(split.labels())
    top1 = float(np.mean(predictions == labels))
    most = float(np.bincount(labels).max()) / split.count
    best, order = best_order(predictions.tolist(), labels.tolist(), columns)
    if best < max(RIGHT, 1.2 * most) or top1 > best / 2:
        return None
    names = [split.classes[label] for label in order]
    line = f"dataset.classes=[{','.join(names)}]" if len(names) <= SHOWN else "dataset.classes"
    return (
        f"top-1 is {top1:.1%}, guessing gives {1 / classes:.1%}, and with the classes in another "
        f"order it would be {best:.1%}: the model was likely trained with its classes in the order "
        f"{', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}; if so, set '{line}'"
    )
