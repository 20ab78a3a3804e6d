"""What is refused before any work: no folder, store or process has been made yet."""

from __future__ import annotations

from collections.abc import Collection

from omegaconf import DictConfig

from pqbench.app.words import check_keys
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.experiment import config as schema


def check(config: DictConfig, alone: bool = False) -> schema.ExperimentConfig:
    """Refuse one experiment that is invalid.

    Args:
        config: Its composed configuration, without Hydra's own.
        alone: It is the only one. Then a recipe that cannot be is refused as well; in a sweep it
            is a row.

    Returns:
        The configuration, typed.

    Raises:
        UnknownKeyError: A key that does not exist.
        ConfigError: A value, an address of the store, or the recipe is invalid.
    """
    check_keys(config)
    read = schema.read(config)
    schema.validate(read)
    if alone:
        check_recipe(read)
    return read


def check_reference(wanted: str | None, backends: Collection[str]) -> None:
    """Refuse a ``claim.reference`` that nothing is measured on.

    Args:
        wanted: Name of the backend that is asked for.
        backends: Names of those of the sweep.

    Raises:
        ConfigError: It is none of them.
    """
    if wanted is not None and wanted not in backends:
        raise ConfigError(
            f"claim.reference={wanted}: no experiment of this sweep runs there",
            hint=f"its backends are {', '.join(sorted(set(backends)))}",
        )


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
