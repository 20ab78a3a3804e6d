"""What the loss would change by without a channel, for every channel of an ONNX graph.

Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning"
(https://arxiv.org/abs/1906.10771): the first-order Taylor expansion, the squared sum of weight
times gradient, over the weights and biases of all layers that make a channel, as if a factor behind
each of them were set to zero. The graph runs in PyTorch (:mod:`pqbench.nets.onnx_trainable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.layers import feed_tensors, torch_threads
from pqbench.nets.onnx_channels import Channels
from pqbench.nets.strided import pixels_first

if TYPE_CHECKING:
    import onnx

BATCH = 16


def taylor(
    model: onnx.ModelProto,
    channels: Channels,
    groups: Sequence[int],
    train: PreparedSplit,
    images: npt.NDArray[np.int64],
    threads: int,
) -> list[npt.NDArray[np.float64]]:
    """The importance of each channel, by group: the mean over batches of the squared change.

    Args:
        model: A classifier.
        channels: Its groups.
        groups: Which of them.
        train: Train split with one class per sample.
        images: Which of its samples.
        threads: Of PyTorch.

    Raises:
        UnsupportedError: The graph cannot run in PyTorch, or its outputs do not fit the classes.
    """
    import torch
    from torch.nn import functional

    from pqbench.nets.onnx_trainable import OnnxModule

    module = OnnxModule(model).eval()
    names = [name for name in module.inputs if name in train.arrays]
    labels = train.labels()
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
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            module.zero_grad()
            scores = module(*feed_tensors(train, names, batch))
            if labels.ndim != 1 or scores.shape != (len(batch), len(train.classes)):
                raise UnsupportedError(
                    f"criterion=taylor needs one score per class, {len(train.classes)} of them; "
                    f"the file gives {tuple(scores.shape)}",
                    hint="criterion=group_norm needs none",
                )
            wanted = torch.from_numpy(np.asarray(labels[batch], np.int64))
            functional.cross_entropy(scores, wanted).backward()  # type: ignore[no-untyped-call]
            changes = [np.zeros_like(total) for total in totals]
            for slot in slots:
                weight = module.weights[places[slot.tensor]]
                if weight.grad is None:
                    continue
                part = (weight.detach() * weight.grad).movedim(slot.axis, 0)
                change = part.reshape(len(part), -1).sum(1).numpy()
                changes[roots[channels.root(slot.layout[0].group)]] += change
            for total, change in zip(totals, changes, strict=True):
                total += change**2
    return [total / max(1, len(range(0, len(images), BATCH))) for total in totals]
