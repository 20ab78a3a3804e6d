"""One assertion with a sentence, and the checks of declared facts that several contracts share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, get_args

from pqbench.core.artifact import Representation
from pqbench.core.errors import PqbenchError
from pqbench.core.instantiate import missing_members, public_name

Contract = TypeVar("Contract")
KNOWN = get_args(Representation)


class BrokenContract(AssertionError):
    """A part does not do what its contract, or the part itself, says."""


def require(condition: bool, message: str) -> None:
    """Raise ``BrokenContract`` unless a condition holds."""
    if not condition:
        raise BrokenContract(message)


def instance(part: Contract | type[Contract], contract: type[Contract]) -> Contract:
    """The part itself, or one made without settings if a class is given.

    Raises:
        BrokenContract: It does not inherit from the contract, leaves out a member, or its class
            needs settings.
    """
    cls = part if isinstance(part, type) else type(part)
    wanted = public_name(contract)
    require(issubclass(cls, contract), f"{cls.__name__} does not inherit from {wanted}")
    missing = missing_members(cls, contract)
    require(not missing, f"{cls.__name__} has no {', '.join(missing)}: see {wanted}")
    if not isinstance(part, type):
        return part
    try:
        return part()
    except TypeError as error:
        raise BrokenContract(
            f"{cls.__name__}() fails: {error}; give an instance with its settings instead"
        ) from error
    except PqbenchError as error:
        raise BrokenContract(f"{cls.__name__}() refuses its own defaults: {error}") from error


def known_representations(who: str, what: str, values: Any) -> None:
    """Check a tuple of representations that a part declares."""
    require(isinstance(values, tuple), f"{who}.{what} is {values!r}, not a tuple")
    require(bool(values), f"{who}.{what} is empty")
    unknown = [value for value in values if value not in KNOWN]
    require(not unknown, f"{who}.{what} has {unknown}; known are {', '.join(KNOWN)}")


def sentences(who: str, what: str, values: Iterable[Any] | Any) -> None:
    """Check that something declared is a sequence of sentences, and not one string."""
    require(not isinstance(values, str), f"{who}.{what} is a string: write a tuple of sentences")
    require(
        all(isinstance(value, str) and value.strip() for value in values),
        f"{who}.{what} holds something that is not a sentence: {values!r}",
    )
