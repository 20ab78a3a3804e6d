"""Structured pruning: remove whole channels, so the network really becomes smaller and faster.

Torch-Pruning finds the layers that must lose the same channels (Fang et al. 2023, "DepGraph:
Towards Any Structural Pruning", https://arxiv.org/abs/2301.12900) and removes them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.compress.criteria import check_criterion, gather_gradients
from pqbench.compress.prune_attempt import Attempts, Pruned, Settings
from pqbench.compress.prune_target import TARGETS, find_ratio, measures
from pqbench.compress.runtime_latency import RUNTIMES
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import (
    feed_tensors,
    output_layers,
    parameter_count,
    recalibrate_batch_norm,
    torch_threads,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

RECURRENT_HINT = (
    "prune the other layers with compress.prune.ignored_layers=[{names}], "
    "or use compress=prune_unstructured"
)


@dataclass(frozen=True)
class Prune(Step):
    """Remove the least important channels.

    Attributes:
        pruning_ratio: Share of the ``target`` to remove, in (0, 1).
        target: ``channels``: of each layer, or of the whole network with ``global_pruning``; 0.3
            removes about half of the parameters. ``parameters``, ``macs``, ``latency`` (of one
            sample, in FP32, on ``runtime``): the channel ratio that removes at least so much is
            searched. The reduction achieved is in the lineage; of ``latency``, what the search
            timed before and after (``runtime_latency``), which is no measured result.
        runtime: Where ``target=latency`` is timed: ``ort``, ``openvino`` or ``torch``.
        criterion: How a channel's importance is judged, and that of a head of fused attention; one
            of ``criteria.CRITERIA``.
        gradient_images: Training images for the gradients of ``output_change``, ``taylor`` and
            ``hessian``; the last two need labels.
        global_pruning: Rank the channels of all layers together rather than layer by layer, and
            all heads.
        layer_ratios: Channel ratio of single modules by dotted name, instead of ``pruning_ratio``
            (local pruning to ``target=channels`` only). Layers that must lose the same channels
            follow the first of them. That of an attention is the ratio of its heads.
        max_layer_ratio: At most this share of any one layer, or of its heads, goes; guards
            ``global_pruning``.
        round_to: Kept channels are rounded down to a multiple of this, which kernels like; null
            for no rounding.
        ignored_layers: Dotted names of modules to leave alone, beside the layers that produce the
            outputs, which are never pruned, and those whose cutting breaks the network, which are
            found by trying and named in the lineage, as are ``nn.MultiheadAttention`` and what
            shares its channels. Recurrent layers must be named here: they cannot be pruned.
        recalibrate_bn: Measure BatchNorm's statistics anew on this many training images; 0 for
            not. Costs seconds and saves much of the accuracy.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    limits: ClassVar[Sequence[str]] = (
        "recurrent layers (LSTM, GRU, RNN), unless named in `ignored_layers`: Torch-Pruning's "
        "dependency graph does not follow them; prune the other layers, or use "
        "`prune_unstructured`",
        "criteria `taylor` and `hessian` on data whose labels are not one class per sample or "
        "pixel",
    )

    pruning_ratio: float = 0.3
    target: str = "channels"
    runtime: str = "ort"
    criterion: str = "output_change"
    gradient_images: int = 256
    global_pruning: bool = False
    layer_ratios: Mapping[str, float] = field(default_factory=dict)
    max_layer_ratio: float = 0.8
    round_to: int | None = 8
    ignored_layers: Sequence[str] = ()
    recalibrate_bn: int = 256

    def __post_init__(self) -> None:
        check_criterion(self.criterion)
        if self.target not in TARGETS:
            raise ConfigError(
                f"pruning target '{self.target}' is unknown",
                hint=f"choose one of {', '.join(TARGETS)}",
            )
        if self.runtime not in RUNTIMES:
            raise ConfigError(
                f"pruning runtime '{self.runtime}' is unknown",
                hint=f"choose one of {', '.join(RUNTIMES)}",
            )
        if self.layer_ratios and (self.global_pruning or self.target != "channels"):
            raise ConfigError(
                "layer_ratios need global_pruning=false and target=channels",
                hint="a global ranking or a searched ratio would override them",
            )
        for name, ratio in self.layer_ratios.items():
            if not 0.0 <= ratio < 1.0:
                raise ConfigError(f"layer_ratios.{name} must lie in [0, 1), got {ratio}")
        if self.gradient_images < 1:
            raise ConfigError(f"gradient_images must be at least 1, got {self.gradient_images}")
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
        kept = self._kept(network, example)
        with torch_threads(data.threads), torch.random.fork_rng(devices=[]):
            images = data.train.spread(self.gradient_images, data.seed)
            graded = gather_gradients(network, data.train, names, images, self.criterion)
            macs = measures(example)["macs"](network)
            ratio, done, told = self._shrink(network, example, kept, data)
            network = done.network
            used = 0
            if self.recalibrate_bn:
                images = data.train.spread(self.recalibrate_bn, data.seed)
                used = recalibrate_batch_norm(network, data.train, names, images)
            macs_left = measures(example)["macs"](network)
        after = parameter_count(network)
        if after >= before:
            broken = ", ".join(f"{name} ({why})" for name, why in list(done.left_alone.items())[:3])
            raise UnsupportedError(
                f"pruning by '{self.criterion}' at ratio {self.pruning_ratio} removed nothing from "
                f"this network ({before} parameters)"
                f"{f'; cutting these breaks it: {broken}' if broken else ''}",
                hint="raise pruning_ratio, lower round_to, or choose another criterion",
            )
        left = layer_channels(network)
        entry = LineageEntry(
            action="prune",
            seconds=time.perf_counter() - start,
            config={
                **asdict(self),
                "ignored_layers": list(self.ignored_layers),
                "layer_ratios": dict(self.layer_ratios),
            },
            details={
                "channel_ratio": ratio,
                "macs_reduction": 1 - macs_left / macs if macs else None,
                **told,
                "gradient_images": graded,
                "parameters_before": before,
                "parameters_after": after,
                "parameter_reduction": 1 - after / before,
                "channels_before": sum(channels.values()),
                "channels_after": sum(left.values()),
                "channel_reduction": 1 - sum(left.values()) / sum(channels.values()),
                "layers": {name: [channels[name], left[name]] for name in channels},
                "never_pruned": kept,
                "left_alone": dict(done.left_alone),
                "attention_heads": dict(done.heads),
                "batch_norm_images": used,
            },
        )
        return save_like(network, artifact, workdir, entry)

    def _kept(self, network: nn.Module, example: tuple[Tensor, ...]) -> list[str]:
        """Names of the modules that are left alone: what makes the outputs, and what is named.

        Raises:
            ConfigError: A name is none of the network's.
            UnsupportedError: There are recurrent layers, and they are not named.
        """
        from torch import nn

        modules = dict(network.named_modules())
        for key in ("ignored_layers", "layer_ratios"):
            unknown = [name for name in getattr(self, key) if name not in modules]
            if unknown:
                raise ConfigError(
                    f"{key}: the network has no module '{unknown[0]}'",
                    hint="names are those of network.named_modules()",
                )
        ignored = {id(m) for name in self.ignored_layers for m in modules[name].modules()}
        recurrent = [
            name
            for name, module in modules.items()
            if isinstance(module, nn.RNNBase) and id(module) not in ignored
        ]
        if recurrent:
            raise UnsupportedError(
                f"Torch-Pruning cannot prune the {type(modules[recurrent[0]]).__name__} "
                f"'{recurrent[0]}': its dependency graph does not follow recurrent layers",
                hint=RECURRENT_HINT.format(names=",".join(recurrent)),
            )
        return [*output_layers(network, example), *self.ignored_layers]

    def _shrink(
        self, network: nn.Module, example: tuple[Tensor, ...], kept: Sequence[str], data: StepData
    ) -> tuple[float, Pruned, dict[str, float]]:
        """The channel ratio, what it made, and for the lineage what the search timed."""
        settings = Settings(
            self.criterion,
            self.global_pruning,
            self.layer_ratios,
            self.max_layer_ratio,
            self.round_to,
            self.ignored_layers,
        )
        attempts = Attempts(settings, network, example, kept, data.seed)
        if self.target == "channels":
            return self.pruning_ratio, attempts.at(self.pruning_ratio), {}
        measure = measures(example, self.runtime, data.threads)[self.target]

        def measured(ratio: float) -> tuple[Pruned, float]:
            pruned = attempts.at(ratio)
            return pruned, measure(pruned.network)

        before = measure(network)
        ratio, pruned, left = find_ratio(before, self.pruning_ratio, self.target, measured)
        if self.target != "latency":
            return ratio, pruned, {}
        return ratio, pruned, {"latency_before_ms": 1e3 * before, "latency_after_ms": 1e3 * left}


def layer_channels(network: nn.Module) -> dict[str, int]:
    """Output channels of every Linear and convolution layer, by dotted name."""
    from torch import nn

    return {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
