"""What reaches a terminal or a pipe: in its own encoding, without stray controls, whoever reads.

A terminal may be ASCII or Latin-1, be closed while a sweep runs, or be a pipe whose reader has had
enough (``| head``). None of that is a reason to lose a table or an experiment.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Callable

from pqbench.core.secrets import mask_text

INTERRUPTED = 130
"""Exit code of what Ctrl-C has ended."""
UNWRITABLE = 4
"""Exit code where results cannot be written."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}

_CHATTER = ("alembic", "fontTools", "mlflow", "mlflow.store.db.utils")

ERRORS = "pqbench.plain"
"""Name of the error handler that writes a plain character for one that the terminal lacks."""

_PLAIN = {
    "·": "-",
    "\xd7": "x",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "\u2013": "-",
    "—": "-",
    "…": "...",
    "µ": "u",
    "\u03c3": "s",
    "⚠": "!",
    "\u201c": '"',
    "\u201d": '"',
    "\u2018": "'",
    "\u2019": "'",
}
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)


def printable(text: str) -> str:
    r"""Text whose control characters, directions and broken bytes are shown, not obeyed.

    A line break and a tab stay. A file's name or a library's message is somebody else's text: an
    escape sequence in it must not move the cursor or change the title of the window.

    Args:
        text: Any text; lone surrogates stand for bytes that are not UTF-8.

    Returns:
        The text with ``\x1b`` and its like written out.
    """
    return _CONTROL.sub(lambda match: _written(match.group()), text)


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, as Python hands it out
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c, _written(c) if _CONTROL.match(c) else "?") for c in bad), error.end


class Formatter(logging.Formatter):
    """Lines of a log: no secrets of addresses, no control characters of somebody else's text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return printable(mask_text(super().format(record)))


class _Stream(io.TextIOWrapper):
    """Standard output or error; once nobody reads it any more, it goes nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def quieten_libraries() -> None:
    """Let chattering libraries warn only; again after one was imported that sets its own level.

    Named in Hydra's ``job_logging``, each of their many loggers would be set anew for every job.
    """
    for logger in map(logging.getLogger, _CHATTER):
        if logger.level != logging.WARNING:
            logger.setLevel(logging.WARNING)


def exit_code(main: Callable[[], int]) -> int:
    """What a command's ``main`` gives.

    Interrupted, or where nothing can be written, it says so in one line, without a traceback.

    Args:
        main: Gives the exit code.

    Returns:
        Its code, ``INTERRUPTED`` or ``UNWRITABLE``.

    Raises:
        OSError: Any other than of a full or read-only file system.
    """
    try:
        return main()
    except KeyboardInterrupt:
        print("\nstopped.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror}: free some space, or write elsewhere",
            file=sys.stderr,
        )
        return UNWRITABLE


def open_streams() -> None:
    """Make standard output and error of this program take every text and outlive their reader."""
    codecs.register_error(ERRORS, _plainly)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(stream, _Stream):
            continue
        with contextlib.suppress(OSError, ValueError):  # replaced by something without a file
            if stream.fileno() != number:
                continue
            encoding, lines = stream.encoding, stream.line_buffering or stream.isatty()
            made = _Stream(stream.detach(), encoding, ERRORS, line_buffering=lines)
            setattr(sys, name, made)
            setattr(sys, f"__{name}__", made)
