"""``pqbench`` and ``python -m pqbench``: experiments and sweeps, and the other commands."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import io
import logging
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from pqbench.core.telemetry import switch_off
from pqbench.core.terminal import INTERRUPTED, exit_code, open_streams


def main() -> None:
    """Entry point of ``python -m pqbench`` and of the ``pqbench`` command."""
    switch_off()
    open_streams()
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)  # a user's own classes, as ``python -m`` finds them
    from pqbench.app.words import COMMANDS

    arguments = sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        sys.exit(_command(arguments[0], arguments[1:]))
    _experiments()


def _command(name: str, arguments: list[str]) -> int:
    """Run ``pqbench NAME ...`` as ``python -m pqbench.NAME ...``."""
    package = f"pqbench.{name}"
    found = importlib.util.find_spec(package)
    if found is not None and found.submodule_search_locations is not None:
        package = f"{package}.__main__"
        found = importlib.util.find_spec(package)
    if found is None:
        print(f"pqbench: this version has no command {name}", file=sys.stderr)
        return 1
    sys.argv[1:] = arguments
    return exit_code(lambda: int(importlib.import_module(package).main(arguments) or 0))


@contextlib.contextmanager
def _folded() -> Iterator[None]:
    """Hydra's help, which is printed meanwhile, as wide as the terminal."""
    from pqbench.app.words import wrapped

    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        print(wrapped(text.getvalue(), min(shutil.get_terminal_size().columns, 100)))


def _experiments() -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from hydra_plugins import pqbench_search
    from pqbench.app.arguments import config_folder, prepare
    from pqbench.app.composition import parse_once, share_store
    from pqbench.app.job import run
    from pqbench.app.outcome import MISTYPED, OUTCOME, code_of, say
    from pqbench.app.words import in_our_words
    from pqbench.core import interrupt as stop
    from pqbench.core.errors import PqbenchError

    # A log that cannot be written (a full disk) must not answer each line with a traceback: what
    # could not be written is said once, at the end.
    logging.raiseExceptions = False
    try:
        stop.install()
        pqbench_search.register()
        share_store()
        parse_once()
        sys.argv[1:] = prepare(sys.argv[1:])
        own = os.environ.setdefault("HYDRA_FULL_ERROR", "pqbench") == "pqbench"
        if own:  # else Hydra prints an error in its own words and ends the program
            os.environ["HYDRA_FULL_ERROR"] = "1"
        app = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
        with _folded() if {"--help", "-h"} & set(sys.argv) else contextlib.nullcontext():
            app(run)()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        say("stopped. What is finished is kept; the same command goes on from there.")
        sys.exit(INTERRUPTED)
    except PqbenchError as error:
        say(str(error))
        sys.exit(code_of(error))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
            raise
        if not own:
            traceback.print_exc()
        say(in_our_words(error))
        sys.exit(MISTYPED)
    sys.exit(OUTCOME.exit_code)


def command() -> None:
    """:func:`main`, as a process of its own: it is over when all is written.

    What is registered to be done at the end is done; freeing every object of torch and MLflow after
    that would take 1.7 s.
    """
    try:
        main()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            raise end from None  # Python says what could not be written
        os._exit(end.code or 0)


if __name__ == "__main__":
    command()
