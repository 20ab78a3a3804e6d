"""Making what a ``_target_`` names: the one factory for steps, backends, data sets and tasks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pqbench.core.errors import ConfigError
from pqbench.core.telemetry import switch_off


def make(node: Mapping[str, Any], what: str) -> Any:
    """Instantiate a light ``_target_`` class (a step, backend or data set) with its options.

    Raises:
        ConfigError: The target cannot be imported, or it does not take one of the keys.
    """
    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{what} has no _target_", hint="name the class that implements it")
    from hydra.utils import get_class

    switch_off()  # before the class is imported, and with it its library
    try:
        cls = get_class(target)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"{what}: cannot import {target}: {error}") from error
    takes = inspect.signature(cls).parameters
    options = {k: v for k, v in node.items() if k != "_target_" and (k != "name" or k in takes)}
    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        known = ", ".join(takes)
        raise ConfigError(f"{what}: {target}: {error}", hint=f"it takes: {known}") from error
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error
