"""Pruning as ``torch.nn.utils.prune`` leaves it: the masks stay beside the weights.

Each pruned weight is kept whole as ``weight_orig``, with a ``weight_mask`` of the same size, and
the two are multiplied before every call. So the file becomes larger and no call faster: this step
is here to measure what many published tables called "pruned". ``prune_unstructured`` makes the
zeros permanent. https://docs.pytorch.org/tutorials/intermediate/pruning_tutorial.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import build_network, builder_of, load_network, save_network

if TYPE_CHECKING:
    from torch import nn

BUILDER = "pqbench.compress.prune_masked.masked_network"


@dataclass(frozen=True)
class PruneMasked(Step):
    """Mask the weights of least magnitude in each convolution and Linear layer; keep the masks.

    Attributes:
        sparsity: Share of each layer's weights that its mask sets to zero, in (0, 1).
    """

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    final: ClassVar[str] = (
        "masks that are kept are PyTorch's own: compress=prune_unstructured makes their zeros "
        "permanent"
    )
    limits: ClassVar[Sequence[str]] = ("models without convolutions or Linear layers",)

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.sparsity < 1.0:
            raise ConfigError(f"sparsity must lie between 0 and 1, got {self.sparsity}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Mask weights and save them with their masks.

        Raises:
            UnsupportedError: No layer has weights of the kind.
        """
        del data  # needs none
        import torch
        from torch.nn.utils import prune as torch_prune

        prune: Any = torch_prune  # without type annotations
        start = time.perf_counter()
        network = load_network(artifact)
        names = _maskable(network)
        if not names:
            raise UnsupportedError(
                "prune_masked found no convolution or Linear layer in this network",
                hint="prune_unstructured knows recurrent layers, too",
            )
        with torch.no_grad():  # the products are attributes that no gradient may hang on
            for name in names:
                prune.l1_unstructured(network.get_submodule(name), "weight", amount=self.sparsity)
        masks = [network.get_submodule(name).get_buffer("weight_mask") for name in names]
        masked = sum(mask.numel() for mask in masks)
        entry = LineageEntry(
            action="prune_masked",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={
                "layers": names,
                "masked_parameters": masked,
                "zero_share": sum(int((mask == 0).sum()) for mask in masks) / masked,
                "speed": "each masked weight is multiplied by its mask before every call",
            },
        )
        builder = {
            "_target_": BUILDER,
            # as text: a nested _target_ would be built
            "network": json.dumps(builder_of(artifact)),
            "layers": names,
        }
        return save_network(
            network, builder, workdir, artifact.inputs, artifact.outputs,
            (*artifact.lineage, entry),
        )  # fmt: skip


def _maskable(network: nn.Module) -> list[str]:
    """Dotted names of the layers to mask; attention's projections are read, never called."""
    from torch import nn

    read = {
        id(module)
        for attention in network.modules()
        if isinstance(attention, nn.MultiheadAttention)
        for module in attention.modules()
    }
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, kinds) and id(module) not in read
    ]


def masked_network(network: str, layers: Sequence[str]) -> nn.Module:
    """Build a network whose layers have masks, for a checkpoint's tensors.

    Args:
        network: The ``_target_`` and arguments of the network without masks, as JSON.
        layers: Dotted names of the layers that have one.
    """
    import torch
    from torch.nn.utils import prune as torch_prune

    prune: Any = torch_prune  # without type annotations
    built = build_network(json.loads(network))
    with torch.no_grad():
        for name in layers:
            prune.identity(built.get_submodule(name), "weight")
    return built
