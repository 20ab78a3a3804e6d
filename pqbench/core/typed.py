"""Dataclasses from JSON, checked: what was damaged or made up is named by its path, not met later.

JSON may say anything. Here a value is taken only where its type is the field's, every number is
finite, and nothing is nested without end; so whoever reads the dataclass need not doubt it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pqbench.core.errors import DataError

MAX_BYTES = 64 * 2**20  # of one file; the largest record seen is 1 MiB
_DEEPEST = 60


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        limit: Longest file that is read, in bytes.

    Raises:
        DataError: The file is missing, too long, not UTF-8, no JSON, or has a number that is not
            finite.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DataError(f"cannot read {path}: longer than {limit:,} bytes")
        return json.loads(data.decode("utf-8"), parse_constant=_not_finite)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # JSON, UTF-8, or a number of 5000 digits
        raise DataError(f"cannot read {path}: {error}") from error


def _not_finite(text: str) -> float:
    raise ValueError(f"{text} is no number")


def build(kind: Any, value: Any, where: str = "") -> Any:
    """A value of a type from plain JSON.

    Args:
        kind: A dataclass, or any annotation made of ``str int float bool None list dict Literal``,
            unions of one type with None, and ``Any``.
        value: What the JSON holds.
        where: Path of the value, for messages.

    Raises:
        DataError: The value is of another type; the message names its path. A field is missing or
            unknown.
    """
    return _reader(kind)(value, where)


Reader = Callable[[Any, str], Any]


def _wrong(where: str, value: Any, wanted: str) -> DataError:
    return DataError(f"{where or 'it'} is {_kind(value)}, not {wanted}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), f"the number {value!r:.40}")


@functools.cache
def _reader(kind: Any) -> Reader:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        readers = [_reader(k) for k in inner if k is not type(None)]
        return _optional(readers[0])
    if origin is list:
        return _list(_reader(inner[0]))
    if origin is dict:
        return _dict(_reader(inner[1]))
    if origin is Literal:
        return _literal(inner)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind)
    return {str: _text, int: _number, float: _number, bool: _truth}.get(kind, _anything)


def _optional(reader: Reader) -> Reader:
    return lambda value, where: None if value is None else reader(value, where)


def _list(reader: Reader) -> Reader:
    def read(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        return [reader(item, f"{where}[{i}]") for i, item in enumerate(value)]

    return read


def _dict(reader: Reader) -> Reader:
    def read(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {key: reader(item, f"{where}.{key}") for key, item in value.items()}

    return read


def _literal(choices: tuple[Any, ...]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(where, value, " or ".join(map(str, choices)))
        return value

    return read


def _dataclass(cls: Any) -> Reader:
    hints = typing.get_type_hints(cls)
    readers = {f.name: _reader(hints[f.name]) for f in dataclasses.fields(cls)}
    needed = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "an object")
        prefix = f"{where}." if where else ""
        for name in value.keys() - readers.keys():
            raise DataError(f"{cls.__name__} has no field {prefix}{name}")
        for name in needed - value.keys():
            raise DataError(f"{prefix}{name} is missing")
        return cls(**{name: readers[name](v, prefix + name) for name, v in value.items()})

    return read


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "a text")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, "a number")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise _wrong(where, value, "a finite number")
    return value


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _anything(value: Any, where: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise DataError(f"{where} is nested too deep")
    if isinstance(value, dict):
        for item in value.values():
            _anything(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _anything(item, where, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, value, "a finite number")
    return value
