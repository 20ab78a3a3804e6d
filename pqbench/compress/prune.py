"""Structured pruning: remove whole channels, so the network really becomes smaller and faster.

Torch-Pruning finds the layers that must lose the same channels (Fang et al. 2023, "DepGraph:
Towards Any Structural Pruning", https://arxiv.org/abs/2301.12900) and removes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.artifact import Artifact, LineageEntry, Representation
from pqbench.checkpoint import load_network, save_like
from pqbench.compress.base import Kind, StepData
from pqbench.errors import ConfigError, UnsupportedError
from pqbench.networks import (
    feed_tensors,
    output_layers,
    output_shapes,
    parameter_count,
    recalibrate_batch_norm,
    torch_threads,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

CRITERIA = ("magnitude_l2", "magnitude_l1", "lamp", "bn_scale", "fpgm", "random")
"""Importance criteria that need no gradients.

``magnitude_l2``, ``magnitude_l1``: norm of a channel's weights (Li et al. 2017, "Pruning filters
for efficient ConvNets"). ``lamp``: layer-adaptive magnitude (Lee et al. 2021). ``bn_scale``:
BatchNorm's scale (Liu et al. 2017, "Network slimming"). ``fpgm``: distance to the geometric median
(He et al. 2019). ``random``: the control that every criterion must beat.
"""


@dataclass(frozen=True)
class Prune:
    """Remove the least important channels.

    Attributes:
        pruning_ratio: Share of channels removed, in (0, 1): of each layer, or of the whole network
            with ``global_pruning``. 0.3 removes about half of the parameters; the reduction
            achieved is in the lineage.
        criterion: How a channel's importance is judged; one of ``CRITERIA``.
        global_pruning: Rank the channels of all layers together rather than layer by layer.
        max_layer_ratio: At most this share of any one layer goes; guards ``global_pruning``.
        round_to: Kept channels are rounded down to a multiple of this, which kernels like; null
            for no rounding.
        ignored_layers: Dotted names of modules to leave alone, beside the layers that produce the
            outputs, which are never pruned.
        recalibrate_bn: Measure BatchNorm's statistics anew on this many training images; 0 for
            not. Costs seconds and saves much of the accuracy.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    pruning_ratio: float = 0.3
    criterion: str = "magnitude_l2"
    global_pruning: bool = False
    max_layer_ratio: float = 0.8
    round_to: int | None = 8
    ignored_layers: Sequence[str] = ()
    recalibrate_bn: int = 256

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ConfigError(
                f"pruning criterion '{self.criterion}' is unknown",
                hint=f"choose one of {', '.join(CRITERIA)}",
            )
        for key in ("pruning_ratio", "max_layer_ratio"):
            if not 0.0 < getattr(self, key) < 1.0:
                raise ConfigError(f"{key} must lie between 0 and 1, got {getattr(self, key)}")
        if self.round_to is not None and self.round_to < 1:
            raise ConfigError(f"round_to must be null or at least 1, got {self.round_to}")
        if self.recalibrate_bn < 0:
            raise ConfigError(f"recalibrate_bn must be at least 0, got {self.recalibrate_bn}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Prune, recalibrate, and save the smaller network.

        Raises:
            UnsupportedError: Torch-Pruning cannot trace or cut this network, nothing was removed,
                or the outputs would change shape.
        """
        import torch

        start = time.perf_counter()
        network = load_network(artifact)
        names = [spec.name for spec in artifact.inputs]
        example = feed_tensors(data.train, names, slice(0, 2))
        before, channels = parameter_count(network), layer_channels(network)
        with torch_threads(data.threads), torch.random.fork_rng(devices=[]):
            torch.manual_seed(data.seed)
            kept = self._cut(network, example)
            used = 0
            if self.recalibrate_bn:
                images = data.train.spread(self.recalibrate_bn, data.seed)
                used = recalibrate_batch_norm(network, data.train, names, images)
        after = parameter_count(network)
        if after >= before:
            raise UnsupportedError(
                f"pruning by '{self.criterion}' at ratio {self.pruning_ratio} removed nothing from "
                f"this network ({before} parameters)",
                hint="raise pruning_ratio, lower round_to, or choose another criterion",
            )
        left = layer_channels(network)
        entry = LineageEntry(
            action="prune",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={
                "parameters_before": before,
                "parameters_after": after,
                "parameter_reduction": 1 - after / before,
                "channels_before": sum(channels.values()),
                "channels_after": sum(left.values()),
                "channel_reduction": 1 - sum(left.values()) / sum(channels.values()),
                "layers": {name: [channels[name], left[name]] for name in channels},
                "never_pruned": kept,
                "batch_norm_images": used,
            },
        )
        return save_like(network, artifact, workdir, entry)

    def _cut(self, network: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
        """Prune in place; return the names of the layers that were not to be pruned."""
        import torch
        import torch_pruning as tp

        modules = dict(network.named_modules())
        unknown = [name for name in self.ignored_layers if name not in modules]
        if unknown:
            raise ConfigError(
                f"ignored_layers: the network has no module '{unknown[0]}'",
                hint="names are those of network.named_modules()",
            )
        kept = [*output_layers(network, example), *self.ignored_layers]
        with torch.no_grad():
            shapes = output_shapes(network(*example))
        try:
            pruner = tp.pruner.BasePruner(
                network,
                example if len(example) > 1 else example[0],
                importance=_importance(self.criterion),
                pruning_ratio=self.pruning_ratio,
                max_pruning_ratio=self.max_layer_ratio,
                global_pruning=self.global_pruning,
                round_to=self.round_to,
                ignored_layers=[modules[name] for name in kept],
                # Its defaults are shared mutable dictionaries, which it fills.
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
            network.zero_grad(set_to_none=True)
            with torch.no_grad():
                pruned = output_shapes(network.eval()(*example))
        except (
            AssertionError,
            AttributeError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise UnsupportedError(
                f"Torch-Pruning {tp.__version__} cannot prune {type(network).__name__}: "
                f"{type(error).__name__}: {error}",
                hint="name the layers it stumbles over in compress.prune.ignored_layers",
            ) from error
        if pruned != shapes:
            raise UnsupportedError(
                f"pruning changed the output's shape from {shapes} to {pruned}",
                hint="name the layer that makes the output in compress.prune.ignored_layers",
            )
        return kept


def layer_channels(network: nn.Module) -> dict[str, int]:
    """Output channels of every Linear and convolution layer, by dotted name."""
    from torch import nn

    return {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }


def _importance(criterion: str) -> Callable[..., Any]:
    from torch_pruning.pruner import importance as tp

    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "magnitude_l2": lambda: tp.GroupMagnitudeImportance(p=2),
        "magnitude_l1": lambda: tp.GroupMagnitudeImportance(p=1),
        "lamp": lambda: tp.LAMPImportance(p=2),
        "bn_scale": lambda: tp.BNScaleImportance(),
        "fpgm": lambda: tp.FPGMImportance(p=2),
        "random": lambda: tp.RandomImportance(),
    }
    return makers[criterion]()
