"""Hydra's basic sweeper with every combination checked before the first one runs."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import open_dict

from pqbench.callbacks import refuse
from pqbench.errors import ConfigError
from pqbench.schema import to_plain, validate


class CheckedSweeper(BasicSweeper):
    """Refuses the whole sweep if one of its combinations cannot be meant."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose and check each combination.

        Raises:
            SystemExit: With code 2, the reason printed, if one is refused.
        """
        assert self.hydra_context is not None
        assert self.config is not None
        for overrides in batch:
            config = self.hydra_context.config_loader.load_sweep_config(
                self.config, list(overrides)
            )
            with open_dict(config):
                del config["hydra"]
            try:
                validate(to_plain(config))
            except ConfigError as error:
                refuse(error)
