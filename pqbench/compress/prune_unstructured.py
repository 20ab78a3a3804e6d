"""Unstructured pruning: set single weights to zero; shapes, speed and plain file size stay.

What it gains is a file that zips better, and speed only where a runtime has sparse kernels: NVIDIA
GPUs from Ampere on for the 2:4 pattern (Mishra et al. 2021, "Accelerating sparse deep neural
networks"). Uses ``torch.nn.utils.prune``, whose masks are made permanent.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import recalibrate_batch_norm, torch_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

SCOPES = ("global", "layer")
NO_FASTER = (
    "torch, ort and openvino compute with zeros as with other weights: nothing becomes faster "
    "there. TensorRT has kernels for the pattern 2:4 on NVIDIA GPUs from Ampere on"
)
"""What zeroed weights do for speed, by runtime; in the lineage of the steps that make them."""


@dataclass(frozen=True)
class PruneUnstructured(Step):
    """Zero the weights of least magnitude in Linear, convolution and recurrent layers.

    Attributes:
        sparsity: Share of these weights set to zero, in (0, 1); unused with ``pattern``.
        scope: ``global`` ranks all weights together (Han et al. 2015), ``layer`` takes the same
            share of every layer, which costs far more accuracy.
        pattern: ``n:m``: keep the n largest of every m weights that lie in a row along the inputs,
            ``2:4`` say; null for none. Layers whose inputs are no multiple of m stay whole.
        ignored_layers: Dotted names of modules to leave alone, with all inside.
        recalibrate_bn: Measure BatchNorm's statistics anew on this many training images; 0: not.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    sparsity: float = 0.5
    scope: str = "global"
    pattern: str | None = None
    ignored_layers: Sequence[str] = ()
    recalibrate_bn: int = 256

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"sparsity must lie between 0 and 1, got {self.sparsity}")
        if self.scope not in SCOPES:
            raise ConfigError(
                f"prune_unstructured.scope '{self.scope}' is unknown",
                hint=f"choose one of {', '.join(SCOPES)}",
            )
        if self.recalibrate_bn < 0:
            raise ConfigError(f"recalibrate_bn must be at least 0, got {self.recalibrate_bn}")
        self._numbers()

    def _numbers(self) -> tuple[int, int] | None:
        if self.pattern is None:
            return None
        parts = str(self.pattern).split(":")
        if len(parts) != 2 or not all(p.isdecimal() for p in parts):
            raise ConfigError(f"prune_unstructured.pattern '{self.pattern}' is not n:m, 2:4 say")
        n, m = int(parts[0]), int(parts[1])
        if not 0 < n < m:
            raise ConfigError(f"prune_unstructured.pattern '{self.pattern}' needs 0 < n < m")
        return n, m

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Zero weights, recalibrate, save; the network keeps its shapes.

        Raises:
            UnsupportedError: No layer has weights of the kind, or none fits the pattern.
        """
        start = time.perf_counter()
        network = load_network(artifact)
        weights = self._weights(network)
        numbers = self._numbers()
        if numbers is not None:
            weights = {
                (name, leaf): module
                for (name, leaf), module in weights.items()
                if _parameter(module, leaf).shape[1] % numbers[1] == 0
            }
        if not weights:
            raise UnsupportedError(
                "prune_unstructured found no weights to zero in this network",
                hint="it needs Linear, convolution or recurrent layers"
                + (f" whose inputs are a multiple of {numbers[1]}" if numbers else ""),
            )
        with torch_threads(data.threads):
            self._zero(weights, numbers)
            used = 0
            if self.recalibrate_bn:
                names = [spec.name for spec in artifact.inputs]
                images = data.train.spread(self.recalibrate_bn, data.seed)
                used = recalibrate_batch_norm(network, data.train, names, images)
        total = sum(p.numel() for p in network.parameters())
        zeros = sum(int((p == 0).sum()) for p in network.parameters())
        entry = LineageEntry(
            action="prune_unstructured",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={
                "parameters": total,
                "zero_parameters": zeros,
                "zero_share": zeros / total,
                "layers": {
                    f"{name}.{leaf}": float((_parameter(module, leaf) == 0).float().mean())
                    for (name, leaf), module in weights.items()
                },
                "batch_norm_images": used,
                "speed": NO_FASTER,
            },
        )
        return save_like(network, artifact, workdir, entry)

    def _weights(self, network: nn.Module) -> dict[tuple[str, str], nn.Module]:
        """The weights to rank: ``(module name, parameter name)`` to the module."""
        from torch import nn

        modules = dict(network.named_modules())
        unknown = [name for name in self.ignored_layers if name not in modules]
        if unknown:
            raise ConfigError(
                f"ignored_layers: the network has no module '{unknown[0]}'",
                hint="names are those of network.named_modules()",
            )
        ignored = {id(m) for name in self.ignored_layers for m in modules[name].modules()}
        kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
        return {
            (name, leaf): module
            for name, module in modules.items()
            if isinstance(module, kinds) and id(module) not in ignored
            for leaf, parameter in module.named_parameters(recurse=False)
            if leaf.startswith("weight") and parameter.dim() > 1
        }

    def _zero(
        self, weights: dict[tuple[str, str], nn.Module], numbers: tuple[int, int] | None
    ) -> None:
        from torch.nn.utils import prune as torch_prune

        prune: Any = torch_prune  # without type annotations

        if numbers is not None:
            for (_, leaf), module in weights.items():
                mask = pattern_mask(_parameter(module, leaf).detach(), *numbers)
                prune.custom_from_mask(module, leaf, mask)
        elif self.scope == "global":
            prune.global_unstructured(
                [(module, leaf) for (_, leaf), module in weights.items()],
                prune.L1Unstructured,
                amount=self.sparsity,
            )
        else:
            for (_, leaf), module in weights.items():
                prune.l1_unstructured(module, leaf, amount=self.sparsity)
        for (_, leaf), module in weights.items():
            prune.remove(module, leaf)


def pattern_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """1 at the ``n`` largest magnitudes of every ``m`` weights along an output's inputs, else 0.

    Args:
        weight: (outputs, inputs, ...); inputs a multiple of m. Groups lie along the inputs of one
            position of the kernel, as sparse kernels see them.
        n: Weights kept.
        m: Weights in a group.
    """
    import torch

    last = weight.movedim(1, -1)
    groups = last.reshape(-1, m).abs()
    mask = torch.zeros_like(groups).scatter_(1, groups.topk(n, dim=1).indices, 1.0)
    return mask.reshape(last.shape).movedim(-1, 1).contiguous()


def _parameter(module: nn.Module, leaf: str) -> Tensor:
    parameter: Tensor = getattr(module, leaf)
    return parameter
