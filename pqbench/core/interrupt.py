"""Ctrl-C: once finishes the running stage and stops, twice stops now. SIGTERM and SIGHUP stop now.

A scheduler or ``docker stop`` sends SIGTERM and kills soon afterwards; a terminal that closes sends
SIGHUP. The running stage is cut off: what it can resume it resumes.

Workers run in sessions of their own, so the terminal's signal reaches only this process.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType

_asked = threading.Event()


class Stopped(KeyboardInterrupt):
    """The user has asked to stop; not an error, so nothing takes it for one."""


def install() -> None:
    """Take over the signals that ask to stop in this process, if this is its main thread.

    What is ignored stays so: ``nohup`` protects from SIGHUP.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # there is no SIGHUP on Windows
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _on_end)


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


def _on_end(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_IGN)  # once is enough: what follows is not to be cut off
    _asked.set()
    raise Stopped


def came(number: int, patience_s: float = 0.5) -> None:
    """Give a signal that has ended a worker the time to reach this process as well.

    A scheduler sends it to all of them at once: then the worker did not crash.

    Args:
        number: The signal.
        patience_s: How long to wait for it, in s.

    Raises:
        Stopped: It came here too.
    """
    if number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)):
        time.sleep(patience_s)
        check()


def check() -> None:
    """End here if the user has asked to.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    if _asked.is_set():
        raise Stopped
