"""The settings that decided the results, as a table for a thesis.

Every step of every recipe with its values, how the model learned the data set's classes, and how it
was measured. A setting that another one makes idle is left out. Where experiments
differ, the value says which of them it belongs to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.record import Record
from pqbench.report.names import backend_name, dataset_name, in_print, model_name, step_name

HEADER = ("step", "setting", "value")
_PROTOCOL = (
    "batch_sizes", "processes", "min_pairs", "block_s", "warmup_s", "max_seconds",
    "target_half_width",
)  # fmt: skip
_DATASET = ("split", "limit", "train_limit", "augment")
_IDLE: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {  # settings without an effect
    "percentile": lambda s: s.get("method") != "percentile",
    "runtime": lambda s: s.get("target", "latency") != "latency",
    "gradient_images": lambda s: s.get("criterion") not in ("output_change", "taylor", "hessian"),
    "teacher_weight": lambda s: not s.get("teacher_weight"),
    "temperature": lambda s: not s.get("teacher_weight"),
    "label_smoothing": lambda s: not s.get("label_smoothing"),
    "full_size_epochs": lambda s: s.get("train_size") is None,
    "recalibrate_bn": lambda s: "epochs" in s and s.get("train_size") is None,
    "devices": lambda s: s.get("devices") == 1,
    "tf32": lambda s: str(s.get("device")) == "cpu",
    "amp": lambda s: s.get("precision") == "fp32",
    **dict.fromkeys(
        ("compile_mode", "fullgraph", "compile_cache", "freezing"),
        lambda s: s.get("mode") in ("eager", "script"),
    ),
}
_FITTED = ("fit", "linear_probe", "scratch")


@dataclass(frozen=True)
class Setting:
    """One setting of one step.

    Attributes:
        step: Name of the step in print, or ``fit``, ``data set``, ``measurement``, ``backend ...``.
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
    trained = _trained(record)
    for step, node in (config.get("compress") or {}).items():
        for name, value in _flat(node):
            yield step_name(step), name, value
        if isinstance(node, Mapping) and "epochs" in node and trained:
            epochs = trained.pop(0)
            if node["epochs"] is None:  # the budget's
                yield step_name(step), "epochs", str(epochs)
    fitted = [dict(entry.get("config") or {}) for entry in record.lineage if _is_fit(entry)]
    if not fitted and any(stage.name.startswith(_FITTED) for stage in record.stages):
        fitted = [dict(config.get("fit") or {})]
    for node in fitted:
        for name, value in _flat({k: v for k, v in node.items() if k not in ("seed", "threads")}):
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
        yield f"backend {backend_name(str(backend.get('name')))}", name, value


def _is_fit(entry: Mapping[str, Any]) -> bool:
    return entry.get("action") == "fit"


def _trained(record: Record) -> list[int]:
    """Epochs of each training step of the recipe, in order, as they came out."""
    details = [entry.get("details") or {} for entry in record.lineage if not _is_fit(entry)]
    return [found["epochs"] for found in details if type(found.get("epochs")) is int]


def _flat(node: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Leaves by their dotted names, without those that are not set, idle, or name a class."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        name = f"{prefix}{key}"
        if str(key).startswith("_") or value is None or value in ([], {}, ""):
            continue
        if key in _IDLE and _IDLE[key](node):
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
    return in_print(record.experiment.recipe_name)


def _backend(record: Record) -> str:
    return backend_name(record.experiment.backend)


def _dataset(record: Record) -> str:
    return dataset_name(record.experiment.dataset)
