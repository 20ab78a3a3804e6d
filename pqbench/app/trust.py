"""What of a record's configuration may run: classes of pqbench and of packages that are named.

A record may be a stranger's, and its configuration names code to call. Nothing is imported to find
out whom it belongs to, but modules of pqbench itself.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.core.errors import ConfigError, DataError

_ROOMS = (
    "pqbench.backends.",
    "pqbench.compress.",
    "pqbench.data.",
    "pqbench.models.",
    "pqbench.training.",
    "pqbench.experiment.tasks",
)
_TARGET = re.compile(r"_target_:\s*[\"']?([\w.]+)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:\s*(\w+)\s*(?:,\s*([^${}\\]*?)\s*)?\}")
_SHOWN = 5
LAST_OF_VERSION_1 = "50ff054"  # the last commit whose classes lay where version 1 names them


def check_trust(config: Mapping[str, Any], conf: Path, allowed: Collection[str]) -> None:
    """Refuse a configuration that would run what nobody vouches for.

    Args:
        config: A record's resolved configuration.
        conf: The shipped ``conf``, whose own ``_target_`` lines are trusted word by word.
        allowed: Packages that the user trusts, by name.

    Raises:
        ConfigError: It names code of another package, reads the environment, or holds another
            interpolation, which could run any function; all of them are shown.
    """
    shipped = _shipped(conf)
    strangers = [
        f"{key}={target}"
        for key, target in _targets(config)
        if target not in shipped
        and target.partition(".")[0] not in allowed
        and not _is_ours(target)
    ]
    if strangers:
        packages = sorted({s.partition("=")[2].partition(".")[0] for s in strangers})
        allow = " ".join(f"--allow {p}" for p in packages if p != "pqbench")
        raise ConfigError(
            f"the record would run code that is not pqbench's: {_some(strangers)}",
            hint=f"if you trust it: {allow}"
            if allow
            else "it is no class of a step, backend, data set or model",
        )
    unread = unread_variables(config)
    if unread:
        raise ConfigError(
            f"the record reads the environment: {', '.join(unread)}",
            hint="if it may: " + " ".join(f"--env {name}" for name in unread),
        )
    open_ends = [key for key, text in _strings(config) if "${" in text]
    if open_ends:
        raise ConfigError(
            f"the record's configuration is not resolved: {_some(open_ends)} holds ${{...}}, which "
            "could call anything",
            hint="run the record's command with your own configuration instead",
        )


def unread_variables(config: Mapping[str, Any]) -> list[str]:
    """Environment variables that a configuration refers to, sorted; none once they are read."""
    found = {match[1] for key, text in _strings(config) for match in _ENVIRONMENT.finditer(text)}
    return sorted(found)


def read_environment(config: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """A record's configuration with values of the environment where it holds references to it.

    Records keep ``${oc.env:NAME}`` as it was given, so a secret does not stand in them. A
    stranger's record must not read any variable it likes (it could send it somewhere), so they are
    named.

    Args:
        config: A record's configuration.
        allowed: Variables that may be read.

    Returns:
        A copy; references to other variables stay.

    Raises:
        ConfigError: A variable that may be read is not set, and the reference has no default.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in allowed:
            return match[0]
        found = os.environ.get(name, default)
        if found is None:
            raise ConfigError(
                f"the record reads {name} from the environment, where it is not set",
                hint=f"set it: {name}=... before the command",
            )
        return found

    def read(node: Any) -> Any:
        if isinstance(node, str):
            return _ENVIRONMENT.sub(value, node)
        if isinstance(node, Mapping):
            return {key: read(item) for key, item in node.items()}
        return [read(item) for item in node] if isinstance(node, list | tuple) else node

    return {key: read(item) for key, item in config.items()}


def with_references(plain: Any, written: Any) -> Any:
    """Plain values with the references to the environment that a record holds put back."""
    if isinstance(written, str) and _ENVIRONMENT.search(written):
        return written
    if isinstance(plain, Mapping) and isinstance(written, Mapping):
        return {key: with_references(item, written.get(key)) for key, item in plain.items()}
    if isinstance(plain, list | tuple) and isinstance(written, list | tuple):
        pairs = zip(plain, written, strict=False)
        return [with_references(item, text) for item, text in pairs] + list(plain[len(written) :])
    return plain


def check_classes(config: Mapping[str, Any], version: int, commit: str | None) -> None:
    """Say which version to install if classes of pqbench have moved since the record was made.

    Args:
        config: The record's configuration, trusted.
        version: Version of the record's format, as it was written.
        commit: pqbench's commit then, if the record knows.

    Raises:
        DataError: A class is no longer where the record names it.
    """
    gone = [t for _, t in _targets(config) if t.startswith("pqbench.") and _found(t) is None]
    if gone:
        raise DataError(
            f"the record was made by another version of pqbench: {gone[0]} is not in this one",
            hint=which_version(version, commit),
        )


def which_version(version: int, commit: str | None) -> str:
    """What to install to run a record that this version cannot.

    Args:
        version: Version of the record's format, as it was written.
        commit: pqbench's commit then, if the record knows.
    """
    made = commit or (LAST_OF_VERSION_1 if version == 1 else None)
    if made is None:
        return "install the version that made it; the record does not say which"
    made = made[:12]
    return f"reproduce it with pqbench at commit {made}: git checkout {made} && pip install -e ."


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shipped(conf: Path) -> set[str]:
    texts = (path.read_text(encoding="utf-8") for path in conf.rglob("*.yaml"))
    return {target for text in texts for target in _TARGET.findall(text)}


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string with its dotted key; keys themselves too, for they may hold interpolations."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield key, str(name)
            yield from _strings(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _strings(item, f"{key}.{number}")


def _targets(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that is called by its name: ``_target_`` at any depth, and tasks."""
    for key, text in _strings(config):
        last = key.rpartition(".")[2]
        if last == "_target_" or (last == "task" and _DOTTED.fullmatch(text)):
            yield key, text


def _is_ours(target: str) -> bool:
    """Whether a target is a class of one of pqbench's packages: a function could do anything.

    One that is of pqbench by its name and cannot be found has moved, which is not a stranger's.
    """
    if not target.startswith("pqbench.") or not _DOTTED.fullmatch(target):
        return False
    found = _found(target)
    if found is None:
        return True
    return inspect.isclass(found) and found.__module__.startswith(_ROOMS)


def _found(target: str) -> object | None:
    """What a dotted name of pqbench leads to; None if there is nothing of that name."""
    module, _, name = target.rpartition(".")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return found
