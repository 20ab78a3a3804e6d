"""What one accuracy does not show: a model that answers one class, lost one, or is overconfident.

A constant answer can score 69 % on a data set with one frequent class, so an accuracy alone calls
a model good that has stopped working. Here predictions are looked at class by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pqbench.core.proportions import constant_score, mcnemar_p, wilson
from pqbench.core.record import NOT_BETTER, ClassScore, Faithfulness
from pqbench.core.statistics import ALPHA, holm

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]

MAX_CLASSES = 50  # above it a record holds only the SHOWN that fell most beyond the noise
SHOWN = 20
LOST = 0.5  # a class is lost where less than this share of the baseline's recall is left
ONE_CLASS = 0.95  # a model answers one class where this share of its answers is that class
BINS = 15
MIN_OF_CLASS = 5  # samples: with fewer a mean over classes has no interval


def macro_f1(predictions: Labels, labels: Labels) -> float:
    """Mean of F1 over the classes that occur among labels or predictions."""
    return _macro_f1(_confusion(predictions, labels))[0]


def _confusion(predictions: Labels, labels: Labels) -> npt.NDArray[np.float64]:
    """Samples by true class (row) and answer (column)."""
    classes = int(max(predictions.max(), labels.max())) + 1
    flat = np.bincount(labels * classes + predictions, minlength=classes**2)
    return flat.reshape(classes, classes).astype(np.float64)


def _macro_f1(matrix: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Macro F1, and its variance by the delta method (the influence of each sample, squared)."""
    right, total = np.diag(matrix), matrix.sum(0) + matrix.sum(1)
    occurs = total > 0
    classes = int(occurs.sum())
    weight = np.where(occurs, 1 / np.maximum(total, 1e-300), 0.0)
    f1 = 2 * right * weight
    influence = -(f1 * weight)[:, None] - (f1 * weight)[None, :] + np.diag(2 * weight)
    variance = float(np.sum(matrix * influence**2)) / classes**2
    return float(f1.sum()) / classes, variance


def _smoothed(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same number of samples by class, each row drawn towards the others' error rate.

    By two imaginary samples per class: a class of a handful of samples, all right, would else
    seem to be known exactly (Agresti and Coull, The American Statistician 52, 1998).
    """
    rows, count = matrix.sum(1), matrix.sum()
    rate = (np.trace(matrix) + 1) / (count + 2)
    answers = matrix.sum(0) + rows
    others = np.maximum(answers.sum() - answers, 1e-300)[:, None]
    prior = (1 - rate) * answers[None, :] / others
    np.fill_diagonal(prior, rate)
    drawn = (matrix + 2 * prior) / (rows[:, None] + 2)
    smooth: npt.NDArray[np.float64] = rows[:, None] * drawn
    return smooth


def class_mean_intervals(
    predictions: Labels, labels: Labels
) -> dict[str, tuple[float, float | None, float | None]]:
    """Balanced accuracy and macro F1, each with its 95 % interval.

    Wilson's interval with the number of independent samples that has the delta method's variance,
    taken at the smoothed rates.

    Args:
        predictions: (n,).
        labels: True classes, (n,).

    Returns:
        ``balanced_accuracy`` and ``macro_f1``: value and ends; no ends where a class has fewer
        than ``MIN_OF_CLASS`` samples, whose recall alone could move the mean anywhere.
    """
    matrix = _confusion(predictions, labels)
    rows = matrix.sum(1)
    occurs = rows > 0
    recall = np.diag(matrix)[occurs] / rows[occurs]
    values = {"balanced_accuracy": float(recall.mean()), "macro_f1": _macro_f1(matrix)[0]}
    if rows[occurs].min() < MIN_OF_CLASS:
        return {name: (value, None, None) for name, value in values.items()}
    smooth = _smoothed(matrix)
    rates = np.diag(smooth)[occurs] / rows[occurs]
    spread = float(np.sum(rates * (1 - rates) / rows[occurs])) / len(rates) ** 2
    found = {
        "balanced_accuracy": (float(rates.mean()), spread),
        "macro_f1": _macro_f1(smooth),
    }
    result: dict[str, tuple[float, float | None, float | None]] = {}
    for name, (rate, variance) in found.items():
        known = rate * (1 - rate) / variance if variance > 0 else 0.0
        independent = known if known > 0 else float(len(labels))
        value = values[name]
        low, high = wilson(value * independent, independent)
        result[name] = (value, min(low, value), max(high, value))
    return result


def calibration(right: npt.NDArray[np.bool_], probability: Probabilities) -> tuple[float, ...]:
    """Root-mean-square calibration error of the answers, debiased, with a 95 % interval.

    Bins of equal count; each bin's squared gap is less its sampling variance (Kumar, Liang and Ma,
    "Verified uncertainty calibration", NeurIPS 2019). The interval inverts the noncentral
    chi-squared distribution that the sum of squared gaps follows, scaled to its variance: so it
    reaches 0 where nothing is shown to be wrong.

    Args:
        right: Whether each answer is right, (n,).
        probability: The answer's probability, (n,).

    Returns:
        Error and the ends of its interval, 0..1; nothing below 10 samples for each of 5 bins.
    """
    count = len(right)
    bins = min(BINS, count // 10)
    if bins < 5:
        return ()
    order = np.argsort(probability, kind="stable")
    hits = right.astype(np.float64)
    bin_gaps: list[float] = []
    bin_variances: list[float] = []
    bin_weights: list[float] = []
    for part in np.array_split(order, bins):
        difference = hits[part] - probability[part]
        share = (right[part].sum() + 1) / (len(part) + 2)  # never a variance of 0
        spread = max(float(difference.var(ddof=1)), share * (1 - share) / 2)
        bin_gaps.append(float(difference.mean()))
        bin_variances.append(spread / len(part))
        bin_weights.append(len(part) / count)
    gaps, variance, weight = (np.array(x) for x in (bin_gaps, bin_variances, bin_weights))
    total = float(np.sum(weight * gaps**2))
    bias = float(np.sum(weight * variance))
    # sum(w gap^2) ~ scale * chi2(dof, shift): mean and variance of the part without a shift agree.
    scale = float(np.sum((weight * variance) ** 2)) / bias
    dof = bias / scale
    low, high = (scale * _noncentrality(total / scale, dof, q) for q in (0.975, 0.025))
    estimate = math.sqrt(max(total - bias, 0.0))
    return estimate, min(math.sqrt(low), estimate), max(math.sqrt(high), estimate)


def _noncentrality(value: float, dof: float, quantile: float) -> float:
    """The shift at which ``value`` is this quantile of the noncentral chi-squared; 0 at least."""
    from scipy.special import chndtr

    if float(chndtr(value, dof, 0.0)) <= quantile:
        return 0.0
    low, high = 0.0, max(value, 1.0) * 4 + 100
    for _ in range(60):
        middle = (low + high) / 2
        if float(chndtr(value, dof, middle)) > quantile:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def faithfulness(
    predictions: Labels,
    labels: Labels,
    names: Sequence[str],
    lower: float,
    probability: Probabilities | None = None,
    baseline: Labels | None = None,
) -> tuple[Faithfulness, int]:
    """Look at the predictions of a classifier class by class.

    Args:
        predictions: (n,).
        labels: True classes, (n,).
        names: Of the classes; an index without a name is shown as a number.
        lower: Lower end of the accuracy's interval, 0..1.
        probability: Of each answer, (n,).
        baseline: The baseline's predictions, (n,); None for a baseline.

    Returns:
        What was found, and how many classes' drops were tested.
    """
    size = int(max(predictions.max(), labels.max(), len(names) - 1)) + 1
    called = [names[i] if i < len(names) else str(i) for i in range(size)]
    counts = np.bincount(labels, minlength=size)
    mean, low, high = class_mean_intervals(predictions, labels)["balanced_accuracy"]
    answered = np.bincount(predictions, minlength=size)
    common = int(answered.argmax())
    rate = float(answered[common]) / len(labels)
    constant, constant_right = constant_score(counts.tolist())
    scores = class_scores(predictions, labels, called, baseline)
    faults = answer_faults(called[common], rate, float(counts[common]) / len(labels), len(labels))
    if not faults and lower <= constant_right < 1:
        faults.append(
            f"{NOT_BETTER} than always answering '{called[constant]}' ({constant_right:.1%})"
        )
    faults += lost_classes(scores)
    found = calibration(predictions == labels, probability) if probability is not None else ()
    error, error_low, error_high = found or (None, None, None)
    result = Faithfulness(
        answer=called[common],
        answer_rate=rate,
        constant_answer=called[constant],
        constant_score=constant_right,
        balanced_accuracy=mean,
        balanced_low=low,
        balanced_high=high,
        calibration_error=error,
        calibration_low=error_low,
        calibration_high=error_high,
        classes=shown(scores),
        faults=faults,
    )
    return result, sum(score.p is not None for score in scores)


def answer_faults(name: str, rate: float, true_rate: float, count: int) -> list[str]:
    """``answers one class`` where nearly all answers are one that is not nearly always true.

    Args:
        name: Most frequent answer.
        rate: Its share of the answers.
        true_rate: Its share of the labels.
        count: Independent samples behind the shares.
    """
    if rate < ONE_CLASS or wilson(rate * count, count)[0] <= true_rate:
        return []
    return [
        f"answers one class: '{name}' for {rate:.1%} of what is scored, of which {true_rate:.1%} is"
    ]


def class_scores(
    predictions: Labels, labels: Labels, names: Sequence[str], baseline: Labels | None
) -> list[ClassScore]:
    """Recall of every class that occurs, paired with the baseline's (exact McNemar, Holm)."""
    scores = []
    for index in np.unique(labels):
        of = labels == index
        count, right = int(of.sum()), int((predictions[of] == index).sum())
        low, high = wilson(right, count)
        score = ClassScore(names[index], count, right / count, low, high)
        if baseline is not None:
            ours, theirs = predictions[of] == index, baseline[of] == index
            score.baseline = float(theirs.mean())
            score.p = mcnemar_p(int(np.sum(theirs & ~ours)), int(np.sum(ours & ~theirs)))
        scores.append(score)
    mark_lost(scores)
    return scores


def mark_lost(scores: Sequence[ClassScore]) -> None:
    """Correct the p values over the classes, and say which are lost."""
    tested = [score for score in scores if score.p is not None]
    for score, p in zip(tested, holm([s.p or 0.0 for s in tested]), strict=True):
        score.adjusted_p = p
        score.lost = p < ALPHA and score.score < LOST * (score.baseline or 0.0)


def lost_classes(scores: Sequence[ClassScore], what: str = "recall") -> list[str]:
    """In words, worst first: ``lost class X (recall 52 % to 3 %)``."""
    lost = sorted((s for s in scores if s.lost), key=lambda s: s.score - (s.baseline or 0.0))
    return [
        f"lost class '{s.name}' ({what} {s.baseline or 0.0:.0%} to {s.score:.0%})" for s in lost
    ]


def shown(scores: Sequence[ClassScore]) -> list[ClassScore]:
    """All classes, or where they are many those that changed most beyond the noise."""
    if len(scores) <= MAX_CLASSES:
        return list(scores)
    worst = sorted(
        scores, key=lambda s: (1.0 if s.p is None else s.p, s.score - (s.baseline or 0.0))
    )
    return worst[:SHOWN]
