"""How a channel's importance is judged: Torch-Pruning's criteria, fed as each of them needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.nets.layers import feed_tensors, first_output
from pqbench.nets.strided import pixels_first

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from pqbench.core.split import PreparedSplit

CRITERIA: Mapping[str, Literal["", "gates of the loss", "gates of the outputs", "squares"]] = {
    "magnitude_l2": "",
    "magnitude_l1": "",
    "lamp": "",
    "bn_scale": "",
    "fpgm": "",
    "random": "",
    "output_change": "gates of the outputs",
    "taylor": "gates of the loss",
    "hessian": "squares",
}
"""Criteria, and what each needs: no gradients, those of gates, or the squares of the loss's.

``magnitude_l2``, ``magnitude_l1``: norm of a channel's weights (Li et al. 2017, "Pruning filters
for efficient ConvNets"). ``lamp``: layer-adaptive magnitude (Lee et al. 2021). ``bn_scale``:
BatchNorm's scale (Liu et al. 2017, "Network slimming"); layers without one, and the heads of
attention, keep all. ``fpgm``: distance to the geometric median (He et al. 2019). ``random``: the
control that every criterion must beat. ``taylor``: what a sample's loss changes by, to first order,
where the layers that read a channel are given zero for it; the root of the mean square over samples
(Molchanov et al. 2019, "Importance estimation for neural network pruning", with a gate before each
reader). ``output_change``: the same of all the network's outputs instead of its loss, without
labels: the length of their change, estimated by one draw of random signs for each sample
(Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix"). A trained
network's loss is close to nothing on most training samples, and so are its gradients; its outputs'
are not. ``hessian``: weight squared times the mean squared gradient of the loss, the diagonal of
the Fisher information (LeCun et al. 1990, "Optimal brain damage").
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
        "output_change": _readers_taylor,
        "taylor": _readers_taylor,
        "hessian": lambda: tp.GroupHessianImportance(),
    }
    return makers[criterion]()


def _readers_taylor() -> Callable[..., Any]:
    """Torch-Pruning's Taylor importance, of the layers alone that read a channel, if any does."""
    import torch
    from torch_pruning.pruner import function
    from torch_pruning.pruner import importance as tp

    readers = (function.prune_conv_in_channels, function.prune_linear_in_channels)
    judge = tp.GroupTaylorImportance(normalizer=_half_by_layer)

    def judged(group: Any) -> Any:
        whole = judge(group)  # IndexError where Torch-Pruning has lost track of a group's channels
        reading = [
            item
            for item in group.items
            if item.dep.handler in readers and None not in item.root_idxs
        ]
        if not reading:
            return whole
        total = torch.zeros(len(group.items[0].idxs))
        for item in reading:
            layer = item.dep.target.module
            others = [d for d in range(layer.weight.dim()) if d != _reading_axis(layer)]
            change = (layer.weight * layer.weight.grad).detach().abs().sum(others)
            change = change.repeat(_reads(layer) // len(change))  # of a convolution in groups
            # A layer that reads a flattened channel has many places for it.
            total.scatter_add_(0, torch.tensor(item.root_idxs), change[item.idxs])
        return _half_by_layer(total / len(reading))

    return judged


def _reads(layer: nn.Module) -> int:
    """How many channels, or features, a Linear or convolution layer reads."""
    size = layer.in_channels if hasattr(layer, "in_channels") else layer.in_features
    assert isinstance(size, int)
    return size


def _reading_axis(layer: nn.Module) -> int:
    """The axis of its weight that has a place for each channel it reads."""
    return 0 if getattr(layer, "transposed", False) else 1


def _half_by_layer(changes: Tensor) -> Tensor:
    """Changes over the root of their layer's mean: half way to a mean of one in every layer.

    In a ranking of all layers together the changes themselves, which are of one kind, empty layers
    whose channels are many and weak together; with a mean of one in every layer, which is
    Torch-Pruning's way, layers without which nothing would change keep as much as any. Each of the
    two is far worse than this on one of the networks in docs/pruning.md.
    """
    import torch

    return changes / changes.mean().sqrt().clamp_min(torch.finfo(changes.dtype).tiny)


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


def signed_sum(output: Any, draws: torch.Generator) -> Tensor:
    """The sum of the first output's values, each with a random sign.

    The square of its change is, on average over the signs, the squared length of the output's
    (Hutchinson 1989).

    Args:
        output: What the network returned; the first tensor counts, of any shape.
        draws: Where the signs come from.
    """
    import torch

    values = first_output(output)
    return (values * (2 * torch.randint(0, 2, values.shape, generator=draws) - 1)).sum()


def gather_gradients(
    network: nn.Module,
    split: PreparedSplit,
    names: Sequence[str],
    indices: npt.NDArray[np.int64],
    criterion: str,
) -> int:
    """Leave in every parameter's ``grad`` what the criterion reads, from real samples.

    Each sample has a backward pass of its own. Of gates, the weights that read a channel share its
    change of the loss, or of the outputs, in proportion to their size, so that what Torch-Pruning
    sums over them, weight times ``grad``, is that change.

    Torch-Pruning's own ``HessianImportance.accumulate_grad`` keeps only the last sample (its
    counter is looked up by name and stored by parameter), so the squares are averaged here.

    Args:
        network: In eval mode; its parameters' gradients are overwritten.
        split: Prepared train split.
        names: The network's inputs, in order.
        indices: Which samples.
        criterion: One of ``CRITERIA``.

    Returns:
        Number of samples used; 0 for a criterion without gradients.

    Raises:
        UnsupportedError: The labels are not classes.
    """
    import torch

    form = CRITERIA[criterion]
    if not form:
        return 0
    outputs = form == "gates of the outputs"
    labels = None if outputs else split.labels()
    signs = torch.Generator().manual_seed(0)
    parameters = [p.requires_grad_(True) for p in network.parameters()]
    readers = _reading_axes(network)
    total = [torch.zeros_like(p) for p in parameters]
    network.eval()
    for index in indices:
        picked = np.asarray([index])
        network.zero_grad(set_to_none=True)
        with pixels_first():
            scores = network(*feed_tensors(split, names, picked))
        if labels is None:
            torch.autograd.backward(signed_sum(scores, signs))
        else:
            target = torch.from_numpy(labels[picked].astype("int64"))
            torch.autograd.backward(task_loss(scores, target, mean=False))
        for kept, parameter in zip(total, parameters, strict=True):
            if parameter.grad is None:
                continue
            if form == "squares":
                kept += parameter.grad**2
            elif (axis := readers.get(parameter)) is not None:
                kept += _of_slices(parameter.detach() * parameter.grad, axis) ** 2
    for kept, parameter in zip(total, parameters, strict=True):
        mean = kept / len(indices)
        if form != "squares" and (axis := readers.get(parameter)) is not None:
            whole = _of_slices(parameter.detach().abs(), axis)
            mean = mean.sqrt() / whole.clamp_min(torch.finfo(whole.dtype).tiny)
        parameter.grad = mean
    return len(indices)


def _reading_axes(network: nn.Module) -> dict[Tensor, int]:
    """The axis of a channel that is read, of the weights of every Linear and convolution layer."""
    from torch import nn

    return {
        module.weight: _reading_axis(module)
        for module in network.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }


def _of_slices(values: Tensor, axis: int) -> Tensor:
    """At every place the sum over all that has the same place on one axis."""
    others = [other for other in range(values.dim()) if other != axis]
    return values.sum(others, keepdim=True).expand_as(values)
