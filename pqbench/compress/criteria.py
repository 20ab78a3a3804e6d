"""How a channel's importance is judged: Torch-Pruning's criteria, fed as each of them needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.nets.layers import feed_tensors, first_output
from pqbench.nets.strided import pixels_first

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from pqbench.core.split import PreparedSplit

CRITERIA: Mapping[str, Literal["", "mean", "squares"]] = {
    "magnitude_l2": "",
    "magnitude_l1": "",
    "lamp": "",
    "bn_scale": "",
    "fpgm": "",
    "random": "",
    "taylor": "mean",
    "hessian": "squares",
}
"""Criteria, and the gradients of the loss that each needs: none, their mean, or of their squares.

``magnitude_l2``, ``magnitude_l1``: norm of a channel's weights (Li et al. 2017, "Pruning filters
for efficient ConvNets"). ``lamp``: layer-adaptive magnitude (Lee et al. 2021). ``bn_scale``:
BatchNorm's scale (Liu et al. 2017, "Network slimming"); layers without one, and the heads of
attention, keep all. ``fpgm``: distance to the geometric median (He et al. 2019). ``random``: the
control that every criterion must beat. ``taylor``: weight times gradient (Molchanov et al. 2019,
"Importance estimation for neural network pruning"). ``hessian``: weight squared times the mean
squared gradient, the diagonal of the Fisher information (LeCun et al. 1990, "Optimal brain
damage").
"""

REFUSED: Mapping[str, str] = {
    "activation": "Torch-Pruning 1.6's ActivationImportance removes nothing, without an error",
    "obdc": "Torch-Pruning 1.6's OBDCImportance fails with a KeyError on networks whose channel "
    "groups hold other layers than Linear and Conv2d",
}
"""Criteria that Torch-Pruning names but that do not work, and what happens."""


def check_criterion(criterion: str) -> None:
    """Raise ``ConfigError`` unless the criterion is one of ``CRITERIA``."""
    if criterion in CRITERIA:
        return
    why = f": {REFUSED[criterion]}" if criterion in REFUSED else " is unknown"
    raise ConfigError(
        f"pruning criterion '{criterion}'{why}", hint=f"choose one of {', '.join(CRITERIA)}"
    )


def importance(criterion: str) -> Callable[..., Any]:
    """Torch-Pruning's importance of one of ``CRITERIA``."""
    from torch_pruning.pruner import importance as tp

    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "magnitude_l2": lambda: tp.GroupMagnitudeImportance(p=2),
        "magnitude_l1": lambda: tp.GroupMagnitudeImportance(p=1),
        "lamp": lambda: tp.LAMPImportance(p=2),
        "bn_scale": lambda: tp.BNScaleImportance(),
        "fpgm": lambda: tp.FPGMImportance(p=2),
        "random": lambda: tp.RandomImportance(),
        "taylor": lambda: tp.GroupTaylorImportance(),
        "hessian": lambda: tp.GroupHessianImportance(),
    }
    return makers[criterion]()


def task_loss(output: Any, labels: Tensor, mean: bool = True) -> Tensor:
    """Cross-entropy of class scores against labels.

    Args:
        output: What the network returned; the first tensor counts: (n, classes), or
            (n, classes, H, W) for one class per pixel.
        labels: (n,), or (n, H, W); pixels of a label outside of the classes do not count.
        mean: Mean over what counts, else the sum.

    Raises:
        UnsupportedError: The labels are of another form.
    """
    from torch.nn import functional

    scores = first_output(output)
    if scores.dim() != labels.dim() + 1 or scores.shape[2:] != labels.shape[1:]:
        raise UnsupportedError(
            f"criteria taylor and hessian need one class per sample or pixel; the output has shape "
            f"{tuple(scores.shape)}, the labels have {tuple(labels.shape)}",
            hint="choose a criterion without gradients, magnitude_l2 say",
        )
    outside = (labels < 0) | (labels >= scores.shape[1])
    labels = labels.masked_fill(outside, -100)
    return functional.cross_entropy(scores, labels, reduction="mean" if mean else "sum")


def gather_gradients(
    network: nn.Module,
    split: PreparedSplit,
    names: Sequence[str],
    indices: npt.NDArray[np.int64],
    criterion: str,
    batch_size: int = 16,
) -> int:
    """Leave in every parameter's ``grad`` what the criterion reads, from real labelled samples.

    Torch-Pruning's own ``HessianImportance.accumulate_grad`` keeps only the last sample (its
    counter is looked up by name and stored by parameter), so the squares are averaged here.

    Args:
        network: In eval mode; its parameters' gradients are overwritten.
        split: Prepared train split.
        names: The network's inputs, in order.
        indices: Which samples.
        criterion: One of ``CRITERIA``.
        batch_size: Samples per backward pass for a mean; squares need one pass per sample.

    Returns:
        Number of samples used; 0 for a criterion without gradients.

    Raises:
        UnsupportedError: The labels are not classes.
    """
    import torch

    form = CRITERIA[criterion]
    if not form:
        return 0
    labels = split.labels()
    parameters = [p.requires_grad_(True) for p in network.parameters()]
    total = [torch.zeros_like(p) for p in parameters]
    network.eval()
    size = 1 if form == "squares" else batch_size
    for start in range(0, len(indices), size):
        picked = indices[start : start + size]
        target = torch.from_numpy(labels[picked].astype("int64"))
        network.zero_grad(set_to_none=True)
        with pixels_first():
            scores = network(*feed_tensors(split, names, picked))
        loss = task_loss(scores, target, mean=False)
        torch.autograd.backward(loss)
        for kept, parameter in zip(total, parameters, strict=True):
            if parameter.grad is not None:
                kept += parameter.grad**2 if form == "squares" else parameter.grad
    for kept, parameter in zip(total, parameters, strict=True):
        parameter.grad = kept / len(indices)
    return len(indices)
