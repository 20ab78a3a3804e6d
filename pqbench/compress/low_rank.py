"""Low-rank factorisation: a layer becomes two thinner ones where that saves work."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import builder_of, load_network, save_network
from pqbench.nets.layers import parameter_count, recalibrate_batch_norm, torch_threads
from pqbench.nets.low_rank import factorised, split_weight

if TYPE_CHECKING:
    from torch import Tensor, nn

BUILDER = "pqbench.nets.low_rank.factorised"


@dataclass(frozen=True)
class LowRank(Step):
    """Replace Linear and convolution layers by the nearest product of two thinner ones.

    Denton et al. 2014, "Exploiting linear structure within convolutional networks"; Zhang et al.
    2016, "Accelerating very deep convolutional networks". Costs accuracy: follow it with
    ``finetune`` or ``distill``. A layer stays as it is where two would have more multiplications.

    Attributes:
        energy: Share of the sum of squared singular values that the rank keeps, in (0, 1).
        least_saving: A layer is replaced only if this share of its multiplications is saved, in
            [0, 1): two kernels cost more than one to start.
        round_to: Ranks are rounded up to a multiple of this, which kernels like; null: no rounding.
        ignored_layers: Dotted names of modules to leave alone.
        recalibrate_bn: Measure BatchNorm's statistics anew on this many training images; 0: keep.
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    limits: ClassVar[Sequence[str]] = (
        "networks whose layers are all depthwise or already thin: nothing would be saved",
    )

    energy: float = 0.9
    least_saving: float = 0.2
    round_to: int | None = 8
    ignored_layers: Sequence[str] = ()
    recalibrate_bn: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.energy < 1:
            raise ConfigError(f"energy must lie between 0 and 1, got {self.energy}")
        if not 0 <= self.least_saving < 1:
            raise ConfigError(f"least_saving must lie in [0, 1), got {self.least_saving}")
        if self.round_to is not None and self.round_to < 1:
            raise ConfigError(f"round_to must be null or at least 1, got {self.round_to}")
        if self.recalibrate_bn < 0:
            raise ConfigError(f"recalibrate_bn must be at least 0, got {self.recalibrate_bn}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Factorise, recalibrate and save.

        Raises:
            ConfigError: A name in ``ignored_layers`` is none of the network's.
            UnsupportedError: No layer would save enough.
        """
        import torch

        start = time.perf_counter()
        network = load_network(artifact)
        before = parameter_count(network)
        weights = self._layers(network)
        ranks = {
            name: rank
            for name, layer in weights.items()
            if (rank := self._rank(layer.weight)) is not None  # type: ignore[arg-type]
        }
        if not ranks:
            raise UnsupportedError(
                f"low_rank at energy {self.energy} would save less than {self.least_saving:.0%} of "
                f"every one of {len(weights)} layers",
                hint="lower energy or least_saving, or prune channels instead",
            )
        old = {name: weights[name] for name in ranks}
        factorised(network, ranks)
        modules = dict(network.named_modules())
        with torch.no_grad():
            for name, layer in old.items():
                first, second = split_weight(layer.weight, ranks[name])  # type: ignore[arg-type]
                modules[f"{name}.0"].weight.copy_(first)
                modules[f"{name}.1"].weight.copy_(second)
                if layer.bias is not None:
                    modules[f"{name}.1"].bias.copy_(layer.bias)
        network.eval()
        used = 0
        if self.recalibrate_bn:
            names = [spec.name for spec in artifact.inputs]
            images = data.train.spread(self.recalibrate_bn, data.seed)
            with torch_threads(data.threads):
                used = recalibrate_batch_norm(network, data.train, names, images)
        after = parameter_count(network)
        entry = LineageEntry(
            action="low_rank",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={
                "parameters_before": before,
                "parameters_after": after,
                "parameter_reduction": 1 - after / before,
                "ranks": ranks,
                "left_alone": sorted(weights.keys() - ranks.keys()),
                "batch_norm_images": used,
            },
        )
        builder = {"_target_": BUILDER, "network": builder_of(artifact), "ranks": ranks}
        lineage = (*artifact.lineage, entry)
        return save_network(network, builder, workdir, artifact.inputs, artifact.outputs, lineage)

    def _layers(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """Linear and ungrouped convolution layers by name; subclasses may pad in ways of their own.

        Raises:
            ConfigError: A name is none of the network's.
        """
        from torch import nn

        modules = dict(network.named_modules())
        unknown = [name for name in self.ignored_layers if name not in modules]
        if unknown:
            raise ConfigError(
                f"ignored_layers: the network has no module '{unknown[0]}'",
                hint="names are those of network.named_modules()",
            )
        ignored = {id(m) for name in self.ignored_layers for m in modules[name].modules()}
        found: dict[str, nn.Module] = {}
        for name, module in modules.items():
            plain = type(module) is nn.Linear
            plain = plain or (
                type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros"
            )
            if plain and name and id(module) not in ignored:
                found[name] = module
        return found

    def _rank(self, weight: Tensor) -> int | None:
        """The rank that keeps the energy; None if that saves too little."""
        import torch

        flat = weight.detach().flatten(1)
        rows, columns = flat.shape
        energies = torch.linalg.svdvals(flat.double()).square()
        shares = energies.cumsum(0) / energies.sum()
        rank = int((shares < self.energy).sum()) + 1
        if self.round_to is not None:
            rank = -(-rank // self.round_to) * self.round_to
        saved = 1 - rank * (rows + columns) / (rows * columns)
        return rank if rank < min(rows, columns) and saved >= self.least_saving else None
