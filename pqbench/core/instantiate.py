"""Making what a ``_target_`` names: the one factory for whatever has a contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pqbench.core.errors import ConfigError
from pqbench.core.telemetry import switch_off

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given

_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "None": ("null", (type(None),)),
}
"""Annotations that a value is checked against: how a message names them, and what each accepts."""

Contract = TypeVar("Contract")


def find_class(node: Mapping[str, Any], what: str, contract: type[Contract]) -> type[Contract]:
    """The class that a node names, proved to keep a contract before anything of it is called.

    Args:
        node: A node of the configuration, with ``_target_``.
        what: Where the node is in the configuration, for messages: ``backend``, say.
        contract: The base class that it must inherit from: a step's, a backend's, ...

    Raises:
        ConfigError: The target cannot be imported, is not a class, does not inherit from the
            contract, or leaves out a member that the contract asks for.
    """
    target = node.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{what} has no _target_", hint="name the class that implements it")
    from hydra.utils import get_object

    switch_off()  # before the class is imported, and with it its library
    try:
        found = get_object(target)
    except (ImportError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{what}: cannot import {target}: {reason}") from error
    wanted = public_name(contract)
    if not isinstance(found, type):
        kind = "function" if callable(found) else type(found).__name__
        raise ConfigError(
            f"{what}: {target} is a {kind}, a class is needed",
            hint=f"name a class that inherits from {wanted}",
        )
    if not issubclass(found, contract):
        raise ConfigError(
            f"{what}: {target} does not inherit from {wanted}",
            hint=f"write class {found.__name__}({wanted})",
        )
    missing = missing_members(found, contract)
    if missing:
        raise ConfigError(
            f"{what}: {target} has no {', '.join(missing)}",
            hint=f"{wanted} describes each; see docs/extend.md",
        )
    return found


def missing_members(cls: type, contract: type) -> list[str]:
    """Members that a contract asks for and a class does not have, in the contract's order.

    Args:
        cls: A class that inherits from the contract.
        contract: What is abstract in it, and what it annotates without a value, must be given.
    """
    if not inspect.isabstract(contract):
        return []
    abstract: frozenset[str] = getattr(cls, "__abstractmethods__", frozenset())
    names = dict.fromkeys([*inspect.get_annotations(contract), *vars(contract)])
    return [name for name in names if name in abstract or not hasattr(cls, name)]


def public_name(contract: type) -> str:
    """How a user writes a contract: those of ``pqbench.core`` are names of ``pqbench`` itself."""
    package = contract.__module__
    return f"{'pqbench' if package.startswith('pqbench.core.') else package}.{contract.__name__}"


def make(node: Mapping[str, Any], what: str, contract: type[Contract]) -> Contract:
    """Make what a node of the configuration describes, with its options.

    ``name`` is an option like any other where the class takes it, and left out where it does not.

    Args:
        node: A node of the configuration: ``_target_`` and options.
        what: Where the node is in the configuration, for messages.
        contract: The base class of what is wanted.

    Raises:
        ConfigError: As of :func:`find_class`; or the class does not take one of the keys, a value
            is not of the kind that it annotates (``bool``, ``int``, ``float``, or None), or it
            refuses one.
    """
    cls = find_class(node, what, contract)
    takes = inspect.signature(cls).parameters
    options = {k: v for k, v in node.items() if k != "_target_" and (k != "name" or k in takes)}
    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        known = ", ".join(takes)
        raise ConfigError(
            f"{what}: {node['_target_']}: {error}", hint=f"it takes: {known}"
        ) from error
    for name, value in options.items():
        _check_scalar(takes.get(name), value, f"{what}.{name}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{what}: {error}") from error


def _check_scalar(parameter: inspect.Parameter | None, value: Any, where: str) -> None:
    """Refuse ``off`` for a bool, say: as text it would count as true.

    Parameters that are annotated with anything but the kinds of ``_KINDS`` are left to the class.
    """
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return
    annotation = parameter.annotation
    written = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    kinds = [kind.strip() for kind in written.split("|")]
    if not set(kinds) <= set(_KINDS):
        return
    if type(value) not in [accepted for kind in kinds for accepted in _KINDS[kind][1]]:
        wanted = " or ".join(_KINDS[kind][0] for kind in kinds)
        raise ConfigError(f"{where}={value}: takes {wanted}")
