"""What types cannot say of a record, checked when it is read, so that its readers need not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Protocol

from pqbench.core.errors import DataError
from pqbench.core.record.timing import Latency, Speedup

_CONFIG_PARTS = ("model", "dataset", "fit", "compress", "backend", "protocol", "tracking", "limits")
_ENVIRONMENT_PARTS = ("cpu", "libraries", "git", "os")
_MOST = 2**31
_DEEPEST = 60


class Values(Protocol):
    """What is looked at of a record (:class:`pqbench.core.record.Record`, which calls this)."""

    created: str
    config: dict[str, Any]
    environment: dict[str, Any]
    lineage: list[dict[str, Any]]
    latency: list[Latency]
    speedup: list[Speedup]


def check(record: Values) -> None:
    """Check the values of a record whose types are right.

    Raises:
        DataError: A time that is none, a batch size or speedup that cannot be, or a part of the
            configuration, environment or lineage of another kind; the first is named.
    """
    for problem in _problems(record):
        raise DataError(f"not a record: {problem}")


def _problems(record: Values) -> Iterator[str]:
    try:
        if datetime.fromisoformat(record.created).tzinfo is None:
            yield "created has no time zone"
    except ValueError as error:
        yield f"created is no time: {error}"
    for name, parts in (("config", _CONFIG_PARTS), ("environment", _ENVIRONMENT_PARTS)):
        whole = getattr(record, name)
        yield from (f"{name}.{p} is no object" for p in parts if not _may_be(dict, whole.get(p)))
        if _depth(whole) > _DEEPEST:
            yield f"{name} is nested too deep"
    gpus = record.environment.get("gpus")
    if not _may_be(list, gpus) or not all(isinstance(gpu, dict) for gpu in gpus or ()):
        yield "environment.gpus is no list of objects"
    git = record.environment.get("git")
    if isinstance(git, dict) and not _may_be(str, git.get("commit")):
        yield "environment.git.commit is no text"
    yield from _sizes(record)
    for i, entry in enumerate(record.lineage):
        if not isinstance(entry.get("action"), str) or not _may_be(dict, entry.get("details")):
            yield f"lineage[{i}] is no action with details"


def _sizes(record: Values) -> Iterator[str]:
    protocol = record.config.get("protocol")
    sizes = protocol.get("batch_sizes") if isinstance(protocol, dict) else None
    if not _may_be(list, sizes):
        yield "config.protocol.batch_sizes is no list"
        return
    given = [*(sizes or ()), *(x.batch_size for x in record.latency)]
    given += [x.batch_size for x in record.speedup]
    if not all(type(size) is int and 0 < size < _MOST for size in given):
        yield f"a batch size is not a number from 1: {given!r:.80}"
    if any(min(x.ratio, x.low, x.high) <= 0 for x in record.speedup):
        yield "a speedup is not above 0"


def _may_be(kind: type[Any], value: Any) -> bool:
    return value is None or isinstance(value, kind)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [x for some in inner for x in some if isinstance(x, dict | list)]
    return depth
