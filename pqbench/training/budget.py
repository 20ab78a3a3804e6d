"""How long a model is tuned after compression: four budgets, in passes over the train split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pqbench.core.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """What a word like ``quick`` stands for.

    Attributes:
        epochs: Passes over the train split.
        validation_share: Share of it that is kept out of the training, to stop early.
        patience: Passes without progress on that share after which training stops; None: never.
        ema: Share of the weights' moving average that a step keeps; 0: no average is made.
    """

    epochs: int
    validation_share: float = 0.0
    patience: int | None = None
    ema: float = 0.0


BUDGETS: Mapping[str, Budget] = {
    "once": Budget(1),
    "quick": Budget(2),
    "default": Budget(10, ema=0.99),
    "full": Budget(60, validation_share=0.1, patience=12, ema=0.99),
}
"""``full`` stands between the 100 epochs that Torch-Pruning's benchmark tunes on CIFAR-10 (Fang et
al. 2023) and what two cores can do; a held-out tenth ends it where it no longer helps."""


def find_budget(name: str) -> Budget:
    """The budget of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in BUDGETS:
        raise ConfigError(
            f"training budget '{name}' is unknown", hint=f"choose one of {', '.join(BUDGETS)}"
        )
    return BUDGETS[name]
