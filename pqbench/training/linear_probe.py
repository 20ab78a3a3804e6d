"""Linear probe: a frozen network's features, and the best linear head on top of them.

For a pretrained network that meets a new data set. Every image passes the network once; the head
is a multinomial logistic regression, which is convex, so there is nothing to tune but its
regularization, and that is chosen by cross-validation on the train split (Alain and Bengio 2016,
"Understanding intermediate layers using linear classifier probes"; Kornblith et al. 2019, "Do
better ImageNet models transfer better?").
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.layers import feed_tensors, torch_threads
from pqbench.training.batches import check_classes

if TYPE_CHECKING:
    from torch import nn

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of ``linear_probe``.

    Attributes:
        batch_size: Images per pass through the network.
        folds: Parts of the cross-validation.
        penalties: Candidate strengths of the L2 penalty on the weights, for features of mean
            variance 1, relative to the mean loss per image. Tried from the strongest down, until
            two in a row are worse than the best: the weak ones take longest.
        max_iterations: Of L-BFGS, for each fit.
        seed: Seeds the folds.
        threads: Threads that torch may use.
    """

    batch_size: int = 32
    folds: int = 4
    penalties: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)
    max_iterations: int = 300
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"linear_probe: folds must be at least 2, got {self.folds}")
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError(f"linear_probe: penalties must be above 0, got {self.penalties}")


@dataclass(frozen=True)
class ProbeReport:
    """What the probe found.

    Attributes:
        head: Dotted name of the layer that was fitted.
        features: Width of the features.
        images: Training images.
        penalty: The L2 penalty chosen.
        cv_loss: Mean cross-validated log loss by penalty, as text keys.
        cv_top1: Cross-validated accuracy at the chosen penalty, in [0, 1].
        train_loss: Mean log loss of the final head on the train split.
        train_top1: Accuracy of the final head on the train split, in [0, 1].
        iterations: Of the final fit.
        features_s: Seconds to compute the features.
        head_s: Seconds to choose and fit the head.
    """

    head: str
    features: int
    images: int
    penalty: float
    cv_loss: dict[str, float]
    cv_top1: float
    train_loss: float
    train_top1: float
    iterations: int
    features_s: float
    head_s: float


def linear_probe(
    network: nn.Module, head_name: str, train: PreparedSplit, settings: ProbeSettings
) -> ProbeReport:
    """Fit the last Linear layer in place, everything before it frozen.

    The features are centred and divided by one number, so that their mean variance is 1; both are
    folded into the layer. Standardising each feature instead would let the head lean on features
    that hardly vary, and those are what a quantizer's rounding, the same for all features, drowns:
    EfficientNet-Lite0 on ELPV then lost 11 to 16 points in INT8, and noise of a tenth of the mean
    standard deviation took its probe from 83.8 to 66.2 % (with one scale: from 82.4 to 82.9 %).

    Args:
        network: On the CPU; its head must have one output per class. Left in eval mode.
        head_name: Dotted name of the head.
        train: Prepared train split with one label per sample.
        settings: How.

    Raises:
        ConfigError: There is no such layer.
        UnsupportedError: The head is no Linear layer that makes the logits from a vector, or
            what reaches it never varies.
        DataError: A class has fewer images than there are folds.
    """
    import torch
    from torch import nn

    head = dict(network.named_modules()).get(head_name)
    if head is None:
        raise ConfigError(
            f"the network has no module '{head_name}'", hint="set model.head to its last layer"
        )
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UnsupportedError(
            f"a linear probe needs a Linear head with biases; {head_name} is {head}",
            hint="use fit.method=finetune",
        )
    check_classes(network, train)
    labels = np.asarray(train.labels(), np.int64)
    counts = np.bincount(labels, minlength=len(train.classes))
    if counts.min() < settings.folds:
        raise DataError(
            f"class '{train.classes[int(counts.argmin())]}' has {counts.min()} training images, "
            f"too few for {settings.folds} folds",
            hint="raise dataset.train_limit",
        )
    start = time.perf_counter()
    with torch_threads(settings.threads):
        features = head_inputs(network, head, train, settings.batch_size).astype(np.float64)
    mean = features.mean(axis=0)
    variance = float(features.var(axis=0).mean())
    if variance == 0:
        raise UnsupportedError(
            f"the inputs of {head_name} are the same for all training images",
            hint="the network must be pretrained for a linear probe; use fit.method=finetune",
        )
    scale = 1 / math.sqrt(variance)
    features_s = time.perf_counter() - start
    x = (features - mean) * scale
    folds = stratified_folds(labels, settings.folds, settings.seed)
    penalty, cv_loss, cv_top1 = _choose(x, labels, folds, settings)
    weights, iterations = fit_logistic(
        x, labels, len(train.classes), penalty, settings.max_iterations
    )
    slope = weights[:-1].T * scale
    offset = weights[-1] - slope @ mean
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(slope))
        head.bias.copy_(torch.from_numpy(offset))
    loss, top1 = _score(x, labels, weights)
    return ProbeReport(
        head=head_name,
        features=x.shape[1],
        images=len(x),
        penalty=penalty,
        cv_loss=cv_loss,
        cv_top1=cv_top1,
        train_loss=loss,
        train_top1=top1,
        iterations=iterations,
        features_s=features_s,
        head_s=time.perf_counter() - start - features_s,
    )


def head_inputs(
    network: nn.Module, head: nn.Linear, train: PreparedSplit, batch_size: int
) -> npt.NDArray[np.float32]:
    """What reaches the head for every sample: (N, features).

    Raises:
        UnsupportedError: The head is not applied once per sample to a vector.
    """
    import torch

    rows: list[npt.NDArray[np.float32]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows.append(inputs[0].detach().cpu().numpy())

    hook = head.register_forward_pre_hook(keep)
    # Depthwise convolutions on the CPU are up to twice as fast in this order.
    network.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            for start in range(0, len(train), batch_size):
                end = min(start + batch_size, len(train))
                network(*feed_tensors(train, train.arrays, slice(start, end)))
    finally:
        hook.remove()
        network.to(memory_format=torch.contiguous_format)
    if any(row.ndim != 2 for row in rows) or sum(map(len, rows)) != len(train):
        raise UnsupportedError(
            "a linear probe needs a head that sees one vector per sample",
            hint="use fit.method=finetune",
        )
    return np.concatenate(rows)


def stratified_folds(labels: Labels, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each sample: every class spread evenly over the folds, seeded."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        fold[members] = (np.arange(len(members)) + rng.integers(folds)) % folds
    return fold


def fit_logistic(
    x: Floats,
    labels: Labels,
    classes: int,
    penalty: float,
    max_iterations: int,
    start: Floats | None = None,
) -> tuple[Floats, int]:
    """Multinomial logistic regression by L-BFGS.

    Minimises the mean log loss plus ``penalty / 2`` times the squared weights; the intercepts are
    not penalised.

    Args:
        x: Features (n, d), of about unit variance.
        labels: Class of each row, in [0, classes).
        classes: Number of classes.
        penalty: Above 0.
        max_iterations: Of L-BFGS.
        start: Weights to begin with, for instance those of a neighbouring penalty.

    Returns:
        Weights (d + 1, classes), the last row being the intercepts; iterations used.
    """
    from scipy.optimize import minimize

    rows = np.arange(len(x))
    shape = (x.shape[1] + 1, classes)

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)
        log_p = _log_probabilities(x, weights)
        error = np.exp(log_p)
        error[rows, labels] -= 1
        error /= len(x)
        gradient = np.empty(shape)
        gradient[:-1] = x.T @ error + penalty * weights[:-1]
        gradient[-1] = error.sum(axis=0)
        loss = -log_p[rows, labels].mean() + 0.5 * penalty * float((weights[:-1] ** 2).sum())
        return float(loss), gradient.ravel()

    first = np.zeros(shape) if start is None else start
    found = minimize(
        objective,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "ftol": 1e-10, "gtol": 1e-6},
    )
    weights: Floats = found.x.reshape(shape)
    return weights, int(found.nit)


def _choose(
    x: Floats, labels: Labels, folds: npt.NDArray[np.int64], settings: ProbeSettings
) -> tuple[float, dict[str, float], float]:
    """The penalty with the smallest cross-validated log loss; all losses; its accuracy."""
    classes = int(labels.max()) + 1
    starts: list[Floats | None] = [None] * settings.folds
    tried: list[tuple[float, float, float]] = []
    for penalty in sorted(settings.penalties, reverse=True):
        total = np.zeros(2)
        for k in range(settings.folds):
            inside, outside = folds != k, folds == k
            weights, _ = fit_logistic(
                x[inside], labels[inside], classes, penalty, settings.max_iterations, starts[k]
            )
            starts[k] = weights
            total += np.array(_score(x[outside], labels[outside], weights)) * outside.sum()
        loss, top1 = total / len(x)
        tried.append((float(loss), penalty, float(top1)))
        if len(tried) - 1 - tried.index(min(tried)) >= 2:
            break
    _, best, top1 = min(tried)
    return best, {f"{penalty:g}": loss for loss, penalty, _ in tried}, top1


def _score(x: Floats, labels: Labels, weights: Floats) -> tuple[float, float]:
    """Mean log loss and accuracy."""
    log_p = _log_probabilities(x, weights)
    hits = log_p.argmax(axis=1) == labels
    return float(-log_p[np.arange(len(x)), labels].mean()), float(hits.mean())


def _log_probabilities(x: Floats, weights: Floats) -> Floats:
    logits = x @ weights[:-1] + weights[-1]
    logits -= logits.max(axis=1, keepdims=True)
    result: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result
