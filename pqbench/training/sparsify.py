"""Sparsity learning as a step: training under a penalty, so that pruning then takes little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.artifact import Representation
from pqbench.core.errors import ConfigError
from pqbench.training.finetune import Finetune
from pqbench.training.penalty import PENALTIES, STRENGTHS, ChannelPenalty, Penalty

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Sparsify(Finetune):
    """Train while whole channels are drawn to zero; put ``prune`` after it.

    The settings are those of ``Finetune``, and:

    Attributes:
        penalty: What is drawn to zero; one of ``penalty.PENALTIES``.
        strength: How hard; see ``penalty.ChannelPenalty``. None: that of ``penalty.STRENGTHS``.
        devices: 1 alone: the penalty cannot be handed to another process.
    """

    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    limits: ClassVar[Sequence[str]] = (
        "data without labels: training needs a class for each sample or each pixel",
        "networks that Torch-Pruning cannot trace, recurrent ones above all",
    )

    penalty: str = "group_norm"
    strength: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty not in PENALTIES:
            raise ConfigError(
                f"penalty '{self.penalty}' is unknown", hint=f"choose one of {', '.join(PENALTIES)}"
            )
        if self.strength is not None and not self.strength > 0:
            raise ConfigError(f"strength must be above 0, got {self.strength}")
        if self.devices != 1:
            raise ConfigError(
                "sparsify.devices must be 1: the penalty cannot be handed to another process"
            )

    @property
    def action(self) -> str:
        """The step's name in lineages."""
        return "sparsify"

    def find_penalty(self, network: nn.Module, example: tuple[Tensor, ...]) -> Penalty | None:
        """What draws channels of this network to zero.

        Raises:
            UnsupportedError: The network cannot be followed.
        """
        strength = STRENGTHS[self.penalty] if self.strength is None else self.strength
        return ChannelPenalty(network, example, self.penalty, strength)
