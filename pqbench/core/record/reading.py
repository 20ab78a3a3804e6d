"""pydantic reads and writes records: values are checked on their way in and out."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pqbench.core.errors import DataError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
_SHOWN = 3  # problems named in one message


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made once for each class: making one takes longer than reading a hundred records."""
    from pydantic import TypeAdapter

    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def values_of(text: str | bytes) -> dict[str, Any]:
    """The plain values of a JSON object.

    Raises:
        DataError: It is no JSON, holds NaN or an infinity, or is no object.
    """
    from pydantic_core import from_json

    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise DataError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"a record is a JSON object, not a {type(value).__name__}")
    return value


def build(kind: type[T], text: str | bytes) -> T:
    """The dataclass whose JSON this is.

    Raises:
        DataError: A field is missing, unknown or of another type; the first few are named.
    """
    from pydantic import ValidationError

    try:
        made: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise DataError(f"not a record: {_problems(error)}") from error
    return made


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False)
    parts = []
    for item in found[:_SHOWN]:
        given, place = item["input"], _path(item["loc"])
        if item["type"] == "unexpected_keyword_argument":
            parts.append(f"{place}: no field has this name")
        elif item["type"] == "missing" or not isinstance(given, str | int | float | None):
            parts.append(f"{place}: {item['msg']}")
        else:
            parts.append(f"{place}: {item['msg']}, not {repr(given)[:60]}")
    more = len(found) - _SHOWN
    return "; ".join([*parts, *([f"and {more} more"] if more > 0 else [])])


def _path(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place)) or "the record"


def checked_json(value: Mapping[str, Any], kind: type[Any]) -> None:
    """Refuse what could not be read back.

    Raises:
        DataError: As :func:`build`, or a value is NaN, infinite or has no JSON.
    """
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"not a record: {error}") from error
    build(kind, text)


def fingerprint_of(value: object, without: str = "") -> str:
    """SHA-256, in hex, of the fields of a dataclass that differ from their defaults.

    What equals its default is left out, so a field that a later version adds changes nothing.
    """
    fields = _canonical(value)
    fields.pop(without, None)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Plain values; 2 and 2.0 are the same number."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            name: _canonical(item)
            for name, default in _defaults(type(value))
            if (item := getattr(value, name)) != default
        }
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_DEFAULTS: dict[type[Any], tuple[tuple[str, Any], ...]] = {}


def _defaults(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Every field with its default; ``MISSING`` where there is none."""
    if kind not in _DEFAULTS:
        found = []
        for field in dataclasses.fields(kind):
            made = field.default_factory
            found.append((field.name, field.default if made is dataclasses.MISSING else made()))
        _DEFAULTS[kind] = tuple(found)
    return _DEFAULTS[kind]


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a dataclass as it is written, without references."""
    schema = _adapter(kind).json_schema(mode="serialization")
    whole: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    return whole


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {k: v for k, v in schema.items() if k != "$ref"}
    if "$ref" in schema:
        rest = copy.deepcopy(definitions[schema["$ref"].rpartition("/")[2]]) | rest
    return {k: _inlined(v, definitions) for k, v in rest.items()}
