"""How the program ends: its exit code, and one line for everything that can go wrong around runs.

Hydra turns what a callback raises into a warning and goes on, as if all were well. So nothing is
raised there but ``SystemExit``: :func:`ends_clearly` makes it of every error.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, ParamSpec, TypeVar

from pqbench.app.words import UnknownKeyError
from pqbench.core.errors import ConfigError, PqbenchError
from pqbench.core.secrets import mask_text
from pqbench.core.terminal import UNWRITABLE, printable

P = ParamSpec("P")
R = TypeVar("R")

MISTYPED = 1
REFUSED = 2
FAILED = 3


@dataclass
class Outcome:
    """How the program ends; set by the callback, read by the entry point of the same process."""

    exit_code: int = 0


OUTCOME = Outcome()


def say(text: str) -> None:
    """One line of this program on standard error."""
    print(f"pqbench: {printable(mask_text(text))}", file=sys.stderr)


def refuse(error: PqbenchError, code: int = REFUSED) -> NoReturn:
    """Print what is invalid and end the program.

    ``SystemExit`` and not the error itself: Hydra would wrap the latter into a traceback.
    """
    say(str(error))
    raise SystemExit(code)


def code_of(error: Exception) -> int:
    """The documented exit code for an error that ends the program."""
    if isinstance(error, UnknownKeyError):
        return MISTYPED
    if isinstance(error, ConfigError):
        return REFUSED
    return UNWRITABLE


def ends_clearly(what: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a method of a Hydra callback: an error ends the program with a line and a code.

    Args:
        what: What could not be done, for the message.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(*args, **kwargs)
            except PqbenchError as error:
                say(str(error))
                code = code_of(error)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                say(
                    f"{what}: {where}{error.strerror or error}. Free space, or set outputs= to a "
                    "folder that can be written; the same command goes on from what is finished"
                )
                code = UNWRITABLE
            except Exception as error:  # the boundary of the program: reported, never hidden
                traceback.print_exc()
                say(f"{what}: {type(error).__name__}: {error}. What is finished is kept")
                code = UNWRITABLE
            OUTCOME.exit_code = code
            raise SystemExit(code)

        return wrapped

    return decorate
