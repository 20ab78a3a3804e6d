"""What loss or outputs would change by without a channel, for every channel of an ONNX graph.

Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning"
(https://arxiv.org/abs/1906.10771): the first-order Taylor expansion, the squared sum of weight
times gradient, over the weights and biases of all layers that make a channel, as if a factor behind
each of them were set to zero: the mean over samples. Of the outputs it is estimated by one draw of
random signs for each sample (as :data:`pqbench.compress.criteria.CRITERIA` says), without labels.
The graph runs in PyTorch (:mod:`pqbench.nets.onnx_trainable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pqbench.compress.criteria import signed_sum
from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.layers import feed_tensors, first_output, torch_threads
from pqbench.nets.onnx_channels import Channels
from pqbench.nets.strided import pixels_first

if TYPE_CHECKING:
    import onnx


def changes(
    model: onnx.ModelProto,
    channels: Channels,
    groups: Sequence[int],
    train: PreparedSplit,
    images: npt.NDArray[np.int64],
    threads: int,
    criterion: str,
) -> list[npt.NDArray[np.float64]]:
    """The importance of each channel, by group: the mean over samples of the squared change.

    Args:
        model: Of ``taylor`` a classifier.
        channels: Its groups.
        groups: Which of them.
        train: Train split; of ``taylor`` with one class per sample.
        images: Which of its samples.
        threads: Of PyTorch.
        criterion: ``taylor``: of the loss; ``output_change``.

    Raises:
        UnsupportedError: The graph cannot run in PyTorch, or its outputs do not fit the classes.
    """
    import torch
    from torch.nn import functional

    from pqbench.nets.onnx_trainable import OnnxModule

    module = OnnxModule(model).eval()
    names = [name for name in module.inputs if name in train.arrays]
    labels = train.labels() if criterion == "taylor" else None
    signs = torch.Generator().manual_seed(0)
    places = {name: place for place, name in enumerate(module.names)}
    roots = {group: place for place, group in enumerate(groups)}
    totals = [np.zeros(channels.sizes[group]) for group in groups]
    makers = {slot.tensor for slot in channels.slots if slot.makes}
    biases = {
        node.input[2]
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[1] in makers
    }
    slots = [
        slot
        for slot in channels.slots
        if (slot.makes or slot.tensor in biases)
        and slot.tensor in places
        and channels.root(slot.layout[0].group) in roots
    ]
    with torch_threads(threads), pixels_first():
        for index in images:
            picked = np.asarray([index])
            module.zero_grad()
            scores = first_output(module(*feed_tensors(train, names, picked)))
            if labels is None:
                torch.autograd.backward(signed_sum(scores, signs))
            else:
                if labels.ndim != 1 or scores.shape != (1, len(train.classes)):
                    raise UnsupportedError(
                        "criterion=taylor needs one score per class, "
                        f"{len(train.classes)} of them; the file gives {tuple(scores.shape)}",
                        hint="criterion=output_change needs no labels",
                    )
                wanted = torch.from_numpy(np.asarray(labels[picked], np.int64))
                torch.autograd.backward(functional.cross_entropy(scores, wanted))
            found = [np.zeros_like(total) for total in totals]
            for slot in slots:
                weight = module.weights[places[slot.tensor]]
                if weight.grad is None:
                    continue
                part = (weight.detach() * weight.grad).movedim(slot.axis, 0)
                change = part.reshape(len(part), -1).sum(1).numpy()
                found[roots[channels.root(slot.layout[0].group)]] += change
            for total, change in zip(totals, found, strict=True):
                total += change**2
    return [total / max(1, len(images)) for total in totals]
