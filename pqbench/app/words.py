"""What is wrong with a command line, in our words: one line, and what to type instead."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pqbench.core.errors import ConfigError

GROUPS = ("experiment", "search", "hydra/launcher", "hydra/sweeper")
COMMANDS = (
    *("report", "compare", "reproduce", "bundle", "layers", "plan", "sync", "cache"),
    "runtimes",
    "testing",
)
_QUOTING = "docs/quoting.md says more"
_SPECIAL = re.compile(r"[^\w./:+\-@%]")


class UnknownKeyError(ConfigError):
    """A key that nothing has: mistyped."""


def in_our_words(error: Exception) -> str:
    """One line for an error of Hydra's about the command line.

    Args:
        error: What Hydra raised while it composed the configuration.

    Returns:
        What is wrong, where, and what to type.
    """
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    cause = str(error.__cause__ or "").partition("\n")[0]
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override))
    if isinstance(error, MissingConfigException):
        return _no_option(error)
    found = re.match(r"Could not override '([^']+)'", text)
    if found:
        return unknown(found.group(1))
    found = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if found:
        key, value = found.groups()
        return (
            f"{key}={value} names several values. Add -m to sweep over them, or write "
            f"'{key}=[{value}]' for one list (a recipe, in order)"
        )
    found = re.match(r"Error merging override (.*)", text)
    if found:
        return f"{found.group(1)}: {cause or text}"
    first = text.strip().partition("\n")[0]
    return f"{first}: {cause}" if cause and cause not in first else first


def unknown(key: str) -> str:
    """That there is no such key, and which is meant."""
    group, _, rest = key.partition(".")
    if group == "backend" and rest:
        return f"{key}: the chosen backend has no {rest}. pqbench ... --cfg job lists what it has"
    if group == "compress" and rest:
        step, _, setting = rest.partition(".")
        lacks = f", or that step no {setting}" if setting else ""
        return (
            f"{key}: the recipe has no step {step}{lacks}. compress={step} chooses the step, "
            "pqbench ... --cfg job lists what it takes"
        )
    known = known_keys()
    parent = key.rpartition(".")[0]
    meant = alike(key, [k for k in known if k.rpartition(".")[0] == parent]) or alike(key, known)
    return f"{key} is no key" + (f". Did you mean {meant}?" if meant else f". {_SEE}")


_SEE = "pqbench --help lists the groups, pqbench --cfg job every key"


def alike(word: str, words: Sequence[str]) -> str:
    """The few words that a mistyped one may mean, best first; empty if none is near."""
    near = difflib.get_close_matches(word, words, 3, 0.6)
    tail = word.rpartition(".")[2]
    if not near:  # the right name in the wrong place
        near = [w for w in words if w.rpartition(".")[2] == tail][:3]
    return " or ".join(near)


def known_keys() -> list[str]:
    """Every key of the configuration by its dotted name, and the groups."""
    from pqbench.experiment.config import ExperimentConfig

    return [*_keys(ExperimentConfig), *GROUPS]


def _keys(kind: Any, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield prefix + field.name
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            yield from _keys(inner, f"{prefix}{field.name}.")


def check_keys(config: DictConfig, prefix: str = "") -> None:
    """Refuse what ``+key=value`` has put where no key is; nodes of a ``_target_`` check their own.

    Raises:
        UnknownKeyError: A key that the configuration does not have.
    """
    kind = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(kind):
        return
    names = {field.name for field in dataclasses.fields(kind)}
    for key in map(str, config):
        if key not in names:
            raise UnknownKeyError(unknown(f"{prefix}{key}"))
        child = config._get_node(key)
        if isinstance(child, DictConfig) and isinstance(child._value(), dict):
            check_keys(child, f"{prefix}{key}.")


def _unreadable(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals:
        meant = alike(argument, COMMANDS)
        command = f" Did you mean pqbench {meant}?" if meant else ""
        return (
            f"{argument}: an argument is GROUP=OPTION or KEY=VALUE.{command} A value with a space "
            f"is quoted twice, for the shell and for Hydra: 'KEY=\"a b\"'; {_QUOTING}"
        )
    opened = sum(value.count(c) for c in "[{(") - sum(value.count(c) for c in "]})")
    if opened > 0:
        return f"{argument}: a bracket is not closed; {_QUOTING}"
    return (
        f"{argument}: the value has characters that Hydra reads as its own. Type it quoted: "
        f"{quoted(key, value)}; {_QUOTING}"
    )


def quoted(key: str, value: str) -> str:
    """An argument as one types it in a shell, so that Hydra takes the value as it is."""
    bare = value.strip("'\"")
    inner = bare.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{key}="{inner}"') if _SPECIAL.search(bare) else f"{key}={bare}"


def _no_option(error: Any) -> str:
    name = str(error.missing_cfg_file or "")
    group, _, option = name.rpartition("/")
    options = [str(o) for o in error.options or ()]
    if not group or not options:
        return str(error).partition("\n")[0]
    meant = alike(option, options)
    hint = f"Did you mean {group}={meant}? " if meant else ""
    return f"{group}={option} does not exist. {hint}There are {', '.join(options)}"


def wrapped(text: str, width: int) -> str:
    """Help whose long lists of options are folded, each below its group's name."""
    lines = []
    for line in text.splitlines():
        folds = len(line) > width and re.match(r"[a-z][\w/]*: ", line)
        lines += textwrap.wrap(line, width, subsequent_indent="    ") if folds else [line]
    return "\n".join(lines)


def unknown_option(argument: str, options: Sequence[str]) -> str:
    """That there is no such option, and which is meant."""
    meant = alike(argument.partition("=")[0], options)
    return f"{argument} is no option. " + (f"Did you mean {meant}?" if meant else _SEE)
