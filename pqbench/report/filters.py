"""Choose records by what they are: ``model=resnet18``, ``backend=ort,openvino``, ``recipe!=none``.

A key is a choice (model, dataset, split, backend, recipe, weights, status, machine)
or a dotted path of the resolved configuration (``compress.prune.pruning_ratio=0.5``). Values are
separated by commas; ``*`` and ``?`` stand for any characters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pqbench.core.errors import ConfigError
from pqbench.core.record import Record
from pqbench.report.environments import machine

_CONDITION = re.compile(r"([A-Za-z_][\w.]*)(!?=)(.*)", re.DOTALL)
_CHOICES = ("model", "task", "dataset", "split", "backend", "weights")


def matching(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Records that fulfil every condition.

    Raises:
        ConfigError: A condition is not ``KEY=VALUE[,VALUE]`` or ``KEY!=...``, or its key is unknown
            to all of the records.
    """
    kept = list(records)
    for condition in conditions:
        found = _CONDITION.fullmatch(condition.strip())
        if found is None:
            raise ConfigError(
                f"--where {condition} is no condition", hint="for example --where model=resnet18"
            )
        key, sign, text = found.groups()
        values = [_value(record, key) for record in records]
        if records and all(value is None for value in values):
            raise ConfigError(
                f"--where {condition}: no record knows {key}",
                hint=f"keys are {', '.join((*_CHOICES, 'recipe', 'status', 'machine'))}, "
                "or a path of the configuration such as protocol.name",
            )
        patterns = [part.strip() for part in text.split(",")]
        wanted = {
            id(record)
            for record, value in zip(records, values, strict=True)
            if any(fnmatchcase(_text(value), p) for p in patterns) == (sign == "=")
        }
        kept = [record for record in kept if id(record) in wanted]
    return kept


def _value(record: Record, key: str) -> Any:
    if key == "recipe":
        return record.experiment.recipe_name
    if key == "status":
        return record.status
    if key == "machine":
        return machine(record)
    if key in _CHOICES:
        return getattr(record.experiment, key)
    value: Any = record.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
