"""Which layers can bear compression: each one compressed alone, the whole network scored.

The scan of Li et al. 2017, "Pruning Filters for Efficient ConvNets"
(https://arxiv.org/abs/1608.08710), section 3.2, for pruning; the same with rounded weights for
quantization. The images scored are training images, so that what is decided by the scan, layers to
leave alone or ratios by layer, has not seen the images that the experiment is judged on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import feed_tensors, first_output, torch_threads

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

ACTIONS = ("prune", "quantize")
BATCH = 32


@dataclass(frozen=True)
class Sensitivity(Step):
    """Compress each Linear and convolution layer alone and note the drop; the model stays as it is.

    The drops, in points of top-1 on the images scored, are in the lineage (``sensitivity``), in
    ``sensitivity.json`` beside the record and, as a plot, in the report. One right answer of 200
    images is half a point: drops of that size rank nothing.

    Attributes:
        action: ``prune``: take the channels of smallest L2 norm out of the layer, with those of
            the BatchNorm that follows it. ``quantize``: round its weights to ``bits``.
        ratio: Share of the layer's channels taken out, in (0, 1); unused by ``quantize``.
        bits: Bits of a rounded weight, 2 to 8, symmetric; unused by ``prune``.
        per_channel: One scale per output channel; false: one per layer. Unused by ``prune``.
        images: Labelled training images to score. The scan runs the network over them once per
            layer.
    """

    kind: ClassVar[Kind] = "analyse"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    limits: ClassVar[Sequence[str]] = ("data whose labels are not one class per sample",)

    action: str = "prune"
    ratio: float = 0.5
    bits: int = 8
    per_channel: bool = True
    images: int = 200

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(
                f"sensitivity.action '{self.action}' is unknown",
                hint=f"choose one of {', '.join(ACTIONS)}",
            )
        if not 0.0 < self.ratio < 1.0:
            raise ConfigError(f"sensitivity.ratio must lie between 0 and 1, got {self.ratio}")
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"sensitivity.bits must lie in 2..8, got {self.bits}")
        if self.images < 1:
            raise ConfigError(f"sensitivity.images must be at least 1, got {self.images}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Scan, and save the network unchanged.

        Raises:
            UnsupportedError: Labels are no classes, or there are no layers to compress.
        """
        start = time.perf_counter()
        network = load_network(artifact)
        names = [spec.name for spec in artifact.inputs]
        if data.train.labels().ndim != 1:
            raise UnsupportedError(
                "sensitivity scores one class per sample, these labels are of another kind",
                hint="leave sensitivity out of the recipe for this task",
            )
        indices = data.train.spread(self.images, data.seed)
        with torch_threads(data.threads):
            batches = list(_batches(data, names, indices))
            layers = _layers(network, batches[0][0])
            if not layers:
                raise UnsupportedError("sensitivity: the network has no Linear or convolution")
            whole = _right(network, batches)
            drops = {}
            for name, (layer, norm) in layers.items():
                with self._compressed(layer, norm):
                    drops[name] = 100 * (whole - _right(network, batches)) / len(indices)
        entry = LineageEntry(
            action="sensitivity",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={
                "images": len(indices),
                "split": data.train.name,
                "top1": whole / len(indices),
                "sensitivity": drops,
            },
        )
        return save_like(network, artifact, workdir, entry)

    @contextmanager
    def _compressed(self, layer: nn.Module, norm: nn.Module | None) -> Iterator[None]:
        """The layer compressed inside the block, and exactly as before after it."""
        import torch

        tensors = [t for m in (layer, norm) if m is not None for t in m.parameters(recurse=False)]
        before = [t.detach().clone() for t in tensors]
        try:
            with torch.no_grad():
                if self.action == "quantize":
                    rounded(layer.weight, self.bits, self.per_channel)  # type: ignore[arg-type]
                else:
                    gone = smallest(layer.weight, self.ratio)  # type: ignore[arg-type]
                    for tensor in tensors:
                        tensor[gone] = 0
            yield
        finally:
            with torch.no_grad():
                for tensor, old in zip(tensors, before, strict=True):
                    tensor.copy_(old)


def rounded(weight: Tensor, bits: int, per_channel: bool) -> None:
    """Round a weight in place to ``2**bits - 1`` levels around zero.

    Args:
        weight: (outputs, ...).
        bits: At least 2.
        per_channel: One scale per output; else one for all.
    """
    top = 2 ** (bits - 1) - 1
    largest = weight.abs().flatten(1).amax(1) if per_channel else weight.abs().amax()
    scale = (largest / top).clamp_min(1e-30)
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1)) if per_channel else scale
    weight.copy_((weight / scale).round() * scale)


def smallest(weight: Tensor, ratio: float) -> Tensor:
    """Indices of the outputs of smallest L2 norm: a share of them, at least 1, never all.

    Args:
        weight: (outputs, ...).
        ratio: The share, in (0, 1).
    """
    count = min(max(1, int(ratio * len(weight))), len(weight) - 1)
    gone: Tensor = weight.flatten(1).norm(dim=1).argsort()[:count]
    return gone


def _batches(
    data: StepData, names: Sequence[str], indices: npt.NDArray[np.int64]
) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    import torch

    for start in range(0, len(indices), BATCH):
        chosen = indices[start : start + BATCH]
        labels = torch.from_numpy(data.train.labels()[chosen])
        yield feed_tensors(data.train, names, chosen), labels


def _right(network: nn.Module, batches: Sequence[tuple[tuple[Tensor, ...], Tensor]]) -> int:
    """Number of right answers."""
    import torch

    with torch.no_grad():
        return sum(int((first_output(network(*x)).argmax(1) == y).sum()) for x, y in batches)


def _layers(
    network: nn.Module, example: tuple[Tensor, ...]
) -> dict[str, tuple[nn.Module, nn.Module | None]]:
    """Layers with weights by dotted name, in the order they run, with the BatchNorm after each."""
    import torch
    from torch import nn

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    ran: list[tuple[str, nn.Module]] = []
    hooks = [
        module.register_forward_hook(lambda m, *_, name=name: ran.append((name, m)))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    try:
        with torch.no_grad():
            network(*(x[:1] for x in example))
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, tuple[nn.Module, nn.Module | None]] = {}
    for (name, module), (_, after) in zip(ran, [*ran[1:], ("", None)], strict=True):
        if isinstance(module, kinds) and len(module.weight) > 1:
            norm = isinstance(after, nn.modules.batchnorm._BatchNorm) and after.affine
            fits = norm and after.num_features == len(module.weight)  # type: ignore[union-attr]
            found[name] = (module, after if fits else None)
    return found
