"""How a field of a record is declared: an ordinary dataclass field with a sentence about it.

The classes are standard dataclasses, so a process that measures makes them without loading
pydantic; pydantic takes over where records are read or written (:mod:`.reading`).
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar


class Part:
    """Base of everything in a record: how pydantic reads it.

    A value of another type is refused, not converted (``"1.5"`` is no number), and so are a field
    that is not declared, NaN and infinity.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "strict": True,
        "extra": "forbid",
        "allow_inf_nan": False,
    }


def doc(text: str, *, allowed: dict[str, Any] | None = None, **default: Any) -> Any:
    """A field with its meaning, which the JSON Schema and the documentation show.

    Args:
        text: One sentence, with the unit.
        allowed: Constraints as ``pydantic.Field`` names them, e.g. ``{"ge": 0}``.
        default: ``default`` or ``default_factory``, as for :func:`dataclasses.field`.
    """
    return field(metadata={"description": text, **(allowed or {})}, **default)
