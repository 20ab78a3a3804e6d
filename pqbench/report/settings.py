"""The settings that decided the results, as a table for a thesis.

Every step of every recipe with its values, how the model learned the data set's classes, and how it
was measured. Where experiments differ, the value says which of them it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.record import Record
from pqbench.report.names import model_name

HEADER = ("step", "setting", "value")
_PROTOCOL = (
    "batch_sizes", "processes", "min_pairs", "block_s", "warmup_s", "max_seconds",
    "target_half_width",
)  # fmt: skip
_DATASET = ("split", "limit", "train_limit", "augment")
_FITTED = ("fit", "linear_probe", "scratch")


@dataclass(frozen=True)
class Setting:
    """One setting of one step.

    Attributes:
        step: Name of the step, or ``fit``, ``data set``, ``measurement``, ``backend NAME``.
        name: Of the setting, as the configuration spells it.
        value: Its value, or several with the experiments that they belong to.
    """

    step: str
    name: str
    value: str


def settings(records: Sequence[Record]) -> list[Setting]:
    """Every setting that matters of the experiments with a result, in the order of the recipes."""
    good = [record for record in records if record.ok]
    found: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in good:
        for step, name, value in _of(record):
            found[step, name][value].append(record)
    return sorted(
        (Setting(step, name, _told(values)) for (step, name), values in found.items()),
        key=lambda item: _place(item.step),
    )


def _place(step: str) -> int:
    """Steps first, then how the model learned its classes, and how it was measured."""
    last = ("fit", "data set", "measurement", "backend")
    return next((i for i, name in enumerate(last, start=1) if step.startswith(name)), 0)


def _of(record: Record) -> Iterable[tuple[str, str, str]]:
    config = record.config
    for step, node in (config.get("compress") or {}).items():
        for name, value in _flat(node):
            yield step, name, value
    if any(stage.name.startswith(_FITTED) for stage in record.stages):
        for name, value in _flat(config.get("fit") or {}):
            yield "fit", name, value
    for step, group, names in (
        ("data set", "dataset", _DATASET),
        ("measurement", "protocol", _PROTOCOL),
    ):
        node = config.get(group) or {}
        for name in names:
            if node.get(name) is not None:
                yield step, name, _text(node[name])
    for name in ("threads", "seed"):
        if config.get(name) is not None:
            yield "measurement", name, _text(config[name])
    backend = config.get("backend") or {}
    for name, value in _flat({k: v for k, v in backend.items() if k not in ("name", "threads")}):
        yield f"backend {backend.get('name')}", name, value


def _flat(node: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Leaves by their dotted names; what is not set and what names a class is left out."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        name = f"{prefix}{key}"
        if str(key).startswith("_") or value is None or value in ([], {}, ""):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)


def _told(values: Mapping[str, Sequence[Record]]) -> str:
    """The value; of several each with what it belongs to."""
    if len(values) == 1:
        return next(iter(values))
    for name in (_model, _recipe, _backend, _dataset):
        names = {value: list(dict.fromkeys(map(name, of))) for value, of in values.items()}
        everywhere = [n for several in names.values() for n in several]
        if len(everywhere) == len(set(everywhere)):  # each belongs to one value
            return "; ".join(f"{value} ({', '.join(several)})" for value, several in names.items())
    return "; ".join(values)


def _model(record: Record) -> str:
    return model_name(record.experiment.model)


def _recipe(record: Record) -> str:
    return record.experiment.recipe_name


def _backend(record: Record) -> str:
    return record.experiment.backend


def _dataset(record: Record) -> str:
    return record.experiment.dataset
