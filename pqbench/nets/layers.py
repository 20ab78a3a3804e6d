"""Small facts and repairs of a torch network that both compressing and training need.

torch is imported when a function is called, never when this module is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.nets.adapt import scored_part

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor, nn

    from pqbench.core.artifact import Artifact


def feed_tensors(
    split: PreparedSplit, names: Sequence[str], indices: Sequence[int] | npt.NDArray[Any] | slice
) -> tuple[Tensor, ...]:
    """Model inputs as tensors on the CPU, in the order of ``names``.

    Args:
        split: Prepared data.
        names: The network's inputs, in the order of ``forward``'s arguments.
        indices: Which samples.

    Raises:
        UnsupportedError: The network has an input that the data set does not feed.
    """
    import torch

    arrays = split.feed(indices)
    absent = [name for name in names if name not in arrays]
    if absent:
        raise UnsupportedError(
            f"the network's input {', '.join(absent)} is not in the prepared data, which has "
            f"{', '.join(arrays)}",
            hint="choose a data set for this model's task",
        )
    return tuple(torch.from_numpy(arrays[name]) for name in names)


def first_output(output: Any) -> Tensor:
    """The first tensor of whatever a network returns: a tensor, a tuple, or a mapping."""
    from torch import Tensor

    while not isinstance(output, Tensor):
        if isinstance(output, Mapping):
            output = next(iter(output.values()))
        elif isinstance(output, tuple | list):
            output = output[0]
        else:
            raise UnsupportedError(
                f"the network returns {type(output).__name__}, not tensors",
                hint="wrap it in a module whose forward returns a tensor",
            )
    return output


def output_shapes(output: Any) -> list[tuple[int, ...]]:
    """Shapes of all tensors that a network returns, in order."""
    from torch import Tensor

    if isinstance(output, Tensor):
        return [tuple(output.shape)]
    values = output.values() if isinstance(output, Mapping) else output
    return [shape for value in values for shape in output_shapes(value)]


def output_layers(network: nn.Module, example: tuple[Tensor, ...]) -> dict[str, nn.Module]:
    """The Linear and convolution layers that produce the network's outputs, by dotted name.

    For each output it is the last such layer to run whose channels are the output's.

    Args:
        network: In eval mode.
        example: One batch of inputs.
    """
    import torch
    from torch import nn

    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    ran: list[str] = []
    modules = dict(network.named_modules())
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in modules.items()
        if isinstance(module, kinds)
    ]
    try:
        with torch.no_grad():
            shapes = output_shapes(scored_part(network, example))
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, nn.Module] = {}
    for shape in shapes:
        for name in reversed(ran):
            module = modules[name]
            is_linear = isinstance(module, nn.Linear)
            channels = module.out_features if is_linear else module.out_channels
            if channels == shape[-1 if is_linear else min(1, len(shape) - 1)]:
                found[name] = module
                break
    return found


def parameter_count(network: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in network.parameters())


def recalibrate_batch_norm(
    network: nn.Module,
    split: PreparedSplit,
    names: Sequence[str],
    indices: npt.NDArray[np.int64],
    batch_size: int = 32,
) -> int:
    """Measure the running statistics of all BatchNorm layers anew, on training images.

    Only the BatchNorm layers are put in training mode: dropout and stochastic depth stay off, as
    they will be in inference. The statistics are the plain average over equal batches, as in
    ``torch.optim.swa_utils.update_bn``. Used after pruning (Li et al. 2020, "EagleEye") and after
    training at another resolution than the model's own (Touvron et al. 2019, "Fixing the
    train-test resolution discrepancy").

    Args:
        network: Changed in place; left in eval mode.
        split: Prepared train split.
        names: The network's inputs, in order.
        indices: Which images.
        batch_size: Images per batch.

    Returns:
        The number of images used: ``len(indices)`` rounded down to whole batches; 0 without
        BatchNorm layers or images.
    """
    import torch
    from torch import nn

    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    layers = [m for m in layers if m.track_running_stats]
    batch_size = min(batch_size, len(indices))
    network.eval()
    if not layers or batch_size < 2:
        return 0
    momenta = [m.momentum for m in layers]
    used = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for start in range(0, len(indices) - batch_size + 1, batch_size):
                network(*feed_tensors(split, names, indices[start : start + batch_size]))
                used += batch_size
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.eval()
    return used


def flush_subnormals(network: nn.Module) -> int:
    """Set to zero all weights and buffers too small to be normal numbers; return how many.

    They carry nothing, and x86 handles each in microcode, up to a hundred times slower.
    """
    import torch

    count = 0
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tiny = (tensor != 0) & (tensor.abs() < torch.finfo(tensor.dtype).tiny)
                count += int(tiny.sum())
                tensor.masked_fill_(tiny, 0)
    return count


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use ``threads`` threads inside an operator, then as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_tensors(
    batch: Mapping[str, npt.NDArray[Any]], artifact: Artifact
) -> tuple[torch.Tensor, ...]:
    """The batch in the order of ``artifact.inputs``, ready for ``forward``.

    Memory is shared with the arrays, except with read-only ones (memory maps), which are copied.
    """
    import torch

    arrays = (batch[spec.name] for spec in artifact.inputs)
    return tuple(torch.from_numpy(a if a.flags.writeable else a.copy()) for a in arrays)


def flatten_outputs(value: Any) -> list[torch.Tensor]:
    """The tensors that a network returned, in order, out of tuples, lists and mappings."""
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in flatten_outputs(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in flatten_outputs(part)]
    return [] if value is None else [value]


def check_layers(network: nn.Module, names: Sequence[str], key: str) -> None:
    """Refuse names of layers that a network does not have.

    Args:
        network: Whose layers.
        names: Dotted names, as of ``network.named_modules()``.
        key: The setting that holds them, for the message.

    Raises:
        UnsupportedError: It lacks one.
    """
    known = {name for name, _ in network.named_modules()}
    odd = [name for name in names if name not in known]
    if odd:
        raise UnsupportedError(
            f"{key}: this model has no layer {', '.join(odd)}",
            hint="names are those of network.named_modules()",
        )
