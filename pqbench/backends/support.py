"""What the backends share: checking options, and saying why a library cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module, metadata
from types import ModuleType

from pqbench.core.errors import ConfigError, UnavailableError
from pqbench.machine.cpu import usable_cores


def one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        ConfigError: It is not; the hint lists what is.
    """
    if value not in allowed:
        raise ConfigError(
            f"backend.{key}={value} is not possible", hint=f"choose one of {', '.join(allowed)}"
        )
    return value


def thread_count(threads: int | None) -> int:
    """Return ``threads``; for None the number of cores that this process may use.

    Raises:
        ConfigError: It is not a whole number from 1 up.
    """
    if threads is None:
        return usable_cores()
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise ConfigError(
            f"backend.threads={threads} is not possible",
            hint="it must be null (all usable cores) or a whole number from 1 up",
        )
    return threads


def library(name: str, pip_name: str) -> ModuleType:
    """Import a runtime.

    Raises:
        UnavailableError: It is not installed, or its shared libraries cannot be loaded.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnavailableError(
                f"{name} cannot be imported: {error}", hint=f"reinstall it: pip install {pip_name}"
            ) from error
        raise UnavailableError(
            f"{name} is not installed", hint=f"pip install {pip_name}"
        ) from error
    except ImportError as error:
        raise UnavailableError(
            f"{name} cannot be imported: {first_line(error)}",
            hint=f"reinstall it: pip install {pip_name}",
        ) from error


def versions(*distributions: str) -> dict[str, str]:
    """Versions of those of the named distributions that are installed."""
    found: dict[str, str] = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def first_line(error: BaseException) -> str:
    """An error's message in one line of bearable length."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def last_line(error: BaseException) -> str:
    """The last line of an error's message: the reason, where C++ call sites come first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
