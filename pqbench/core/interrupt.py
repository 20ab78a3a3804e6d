"""Ctrl-C: once finishes the running stage and stops, twice stops now.

Workers run in sessions of their own, so the terminal's signal reaches only this process.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

_asked = threading.Event()


class Stopped(KeyboardInterrupt):
    """The user has asked to stop; not an error, so nothing takes it for one."""


def install() -> None:
    """Take over Ctrl-C in this process, if this is its main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _on_interrupt)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _asked.is_set():
        raise Stopped
    _asked.set()
    print(
        "\npqbench: stopping when this stage is done; Ctrl-C again stops now.",
        file=sys.stderr,
        flush=True,
    )


def check() -> None:
    """End here if the user has asked to.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    if _asked.is_set():
        raise Stopped
