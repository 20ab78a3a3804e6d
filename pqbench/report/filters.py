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

from pqbench.core.errors import ConfigError, Status
from pqbench.core.record import Record
from pqbench.report.environments import machine

_CONDITION = re.compile(r"([A-Za-z_][\w.]*)(!?=)(.*)", re.DOTALL)
_NAMED = 8  # values that an error lists
_CHOICES = ("model", "task", "dataset", "split", "backend", "weights")


def matching(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Records that fulfil every condition.

    Raises:
        ConfigError: A condition is not ``KEY=VALUE[,VALUE]`` or ``KEY!=...``, its key is unknown
            to all of the records, or it fits none of those that are left.
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
        fitting = [record for record in kept if id(record) in wanted]
        if kept and not fitting:
            known = sorted({_text(_value(record, key)) for record in kept})
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            raise ConfigError(
                f"--where {condition} fits none of {len(kept)} records",
                hint=f"{key} is {', '.join(known[:_NAMED])}{more}",
            )
        kept = fitting
    return kept


def without(records: Sequence[Record], statuses: Sequence[str]) -> list[Record]:
    """Records whose status is none of these.

    Args:
        records: Any.
        statuses: One or several, separated by commas, each.

    Raises:
        ConfigError: There is no such status, or it is ``ok``: results are not hidden.
    """
    hidden = {part.strip() for text in statuses for part in text.split(",")}
    known = [str(status) for status in Status if status != Status.OK]
    if unknown := sorted(hidden - set(known)):
        raise ConfigError(
            f"--hide {unknown[0]}: there is no such status", hint=f"hide {', '.join(known)}"
        )
    return [record for record in records if record.status not in hidden]


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
