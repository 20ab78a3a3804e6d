"""What is refused before any work: no folder, store or process has been made yet."""

from __future__ import annotations

from omegaconf import DictConfig

from pqbench.app.words import check_keys
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.experiment import config as schema


def check(config: DictConfig, alone: bool = False) -> None:
    """Refuse one experiment that is invalid.

    Args:
        config: Its composed configuration, without Hydra's own.
        alone: It is the only one. Then a recipe that cannot be is refused as well; in a sweep it
            is a row.

    Raises:
        UnknownKeyError: A key that does not exist.
        ConfigError: A value, an address of the store, or the recipe is invalid.
    """
    check_keys(config)
    read = schema.read(config)
    schema.validate(read)
    if alone:
        check_recipe(read)


def check_recipe(config: schema.ExperimentConfig) -> None:
    """Refuse a recipe whose order cannot work, or which ends in nothing that the backend loads.

    Args:
        config: The validated configuration.

    Raises:
        ConfigError: The recipe cannot be; the message says which step, why, and what to do.
    """
    from pqbench.compress.recipe import plan
    from pqbench.core.backend import Backend
    from pqbench.core.instantiate import make
    from pqbench.core.step import Step

    backend = make(config.backend, "backend", Backend)
    steps = {name: make(node, f"compress.{name}", Step) for name, node in config.compress.items()}
    try:
        plan(steps, config.model.representation.value, backend.loads, config.backend_name)
    except UnsupportedError as error:
        raise ConfigError(error.message, error.hint) from error
