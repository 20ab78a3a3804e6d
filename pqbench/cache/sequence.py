"""Numbers that grow from record to record, whatever the clock does.

Of two records of one experiment the later one counts. A clock that was set back (a dead battery, a
virtual machine resumed, time synchronised at last) would make the earlier one look later, so each
record has a number beside its time, as Lamport's clocks do: the time in ms, or one more than the
last number that was given, whatever is higher.

Lamport, "Time, Clocks, and the Ordering of Events in a Distributed System", CACM 21 (7), 1978.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from filelock import FileLock

FILE = ".sequence"


def next_number(folder: Path) -> int:
    """A number above all that were given in this folder.

    Args:
        folder: The ``outputs`` folder, where the last one is kept; made if missing.

    Returns:
        The time in ms since 1970, or more. Only the time where the folder cannot be written: that
        is no reason to lose a result.
    """
    now = time.time_ns() // 1_000_000
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        with FileLock(folder / f"{FILE}.lock"):
            now = max(now, _last(path) + 1)
            aside = folder / f"{FILE}.{os.getpid()}.tmp"
            aside.write_text(f"{now}\n", encoding="ascii")
            aside.replace(path)
    return now


def _last(path: Path) -> int:
    """The last number; 0 where there is none, or no number stands there."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
