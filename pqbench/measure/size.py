"""How big a model is and how much work it does: bytes, parameters, multiply-accumulates."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.artifact import Artifact, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class _Counter(io.RawIOBase):
    """Counts the bytes written to it and forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.count += size
        return size


def zipped_bytes(files: Sequence[Path]) -> int:
    """Size of a zip archive (deflate, level 6) of the files, in bytes; nothing is written."""
    counter = _Counter()
    with zipfile.ZipFile(counter, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in files:
            archive.write(file, file.name)
    return counter.count


def recurrent_macs(module: nn.RNNBase, batch: int, steps: int) -> int:
    """Multiply-accumulates of an LSTM, GRU or RNN by its definition, biases not counted.

    Args:
        module: The layers.
        batch: Sequences.
        steps: Length of each.

    Returns:
        Per step, layer and direction: gates x hidden x (input + recurrent), plus the projection.
    """
    gates = _GATES.get(module.mode.partition("_")[0], 1)
    directions = 2 if module.bidirectional else 1
    hidden = module.hidden_size
    out = module.proj_size or hidden
    total = 0
    for layer in range(module.num_layers):
        inputs = module.input_size if layer == 0 else out * directions
        one = gates * hidden * (inputs + out) + (hidden * out if module.proj_size else 0)
        total += one * directions
    return total * batch * steps


def count_macs(network: nn.Module, inputs: Sequence[torch.Tensor]) -> int:
    """Multiply-accumulates of one forward pass.

    Convolutions, matrix products and attention are counted by torch's ``FlopCounterMode`` (two
    floating-point operations are one multiply-accumulate); it sees operators, not module classes,
    so subclasses of ``Conv2d`` count. Recurrent layers, which it misses, are added by definition.

    Args:
        network: In eval mode.
        inputs: Positional inputs, (n, ...).
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    missed = 0
    before: dict[int, int] = {}

    def enter(module: nn.Module, _: Any) -> None:
        before[id(module)] = counter.get_total_flops()

    def leave(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        nonlocal missed
        assert isinstance(module, nn.RNNBase)
        x = args[0]
        if isinstance(x, nn.utils.rnn.PackedSequence):
            batch, steps = int(x.batch_sizes.sum()), 1
        elif x.dim() == 2:
            batch, steps = 1, x.shape[0]
        else:
            batch, steps = (
                (x.shape[0], x.shape[1]) if module.batch_first else (x.shape[1], x.shape[0])
            )
        seen = (counter.get_total_flops() - before[id(module)]) // 2
        missed += max(recurrent_macs(module, batch, steps) - seen, 0)

    handles = []
    for module in network.modules():
        if isinstance(module, nn.RNNBase):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), counter:
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2 + missed


def one_sample(specs: Sequence[TensorSpec]) -> list[torch.Tensor] | None:
    """Inputs of one sample, all ones; None if a size other than the batch is free."""
    import torch

    tensors = []
    for spec in specs:
        shape = [1 if i == 0 and size is None else size for i, size in enumerate(spec.shape)]
        if any(size is None for size in shape):
            return None
        tensors.append(
            torch.ones([size for size in shape if size], dtype=getattr(torch, spec.dtype))
        )
    return tensors


def measure_files(deployed: Artifact) -> dict[str, int]:
    """Bytes of the model that the backend loads: ``file_bytes`` and ``zipped_bytes``."""
    files = deployed.model_files()
    return {
        "file_bytes": sum(file.stat().st_size for file in files),
        "zipped_bytes": zipped_bytes(files),
    }


def count_onnx(model: Artifact) -> dict[str, int | None]:
    """Parameters of an ONNX model; see :func:`pqbench.nets.onnx_parameters.count_parameters`."""
    import onnx

    from pqbench.nets.onnx_parameters import count_parameters

    counted = count_parameters(onnx.load(model.path))
    return {
        "parameters": counted.parameters,
        "nonzero_parameters": counted.nonzero,
        "macs": None,
    }


def count_work(network: Artifact) -> dict[str, int | None]:
    """Parameters and multiply-accumulates of a network.

    Args:
        network: The last ``torch`` artifact on the way to what is deployed.

    Returns:
        ``parameters``, ``nonzero_parameters`` and ``macs`` (of one sample; null if an input has a
        free size besides the batch, or the model was given as ONNX), as in
        :class:`pqbench.core.record.Size`.
    """
    if network.representation == "onnx":
        return count_onnx(network)
    from pqbench.nets.checkpoint import load_network

    module = load_network(network)
    parameters = list(module.parameters())
    inputs = one_sample(network.inputs)
    return {
        "parameters": sum(math.prod(p.shape) for p in parameters),
        "nonzero_parameters": sum(int((p != 0).sum()) for p in parameters),
        "macs": None if inputs is None else count_macs(module, inputs),
    }
