"""Figures of many records, drawn by a process of their own while the texts are written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

MANY = 1000  # records; below, a process of its own gains less than a second

Draw = Callable[[], list[Path]]


@contextmanager
def drawn_beside(draw: Draw, records: int) -> Iterator[Draw]:
    """Begin to draw, where that pays; the call that is given waits for the files.

    A fork sees what is in memory, so nothing is read or sent again. It is made only where no other
    thread runs, whose locks would stay locked in it. Where the fork fails in any way, or is killed,
    the figures are drawn here, so that an error is raised where it can be handled.

    Args:
        draw: Draws and gives the files.
        records: How many there are.
    """
    if records < MANY or not hasattr(os, "fork") or threading.active_count() > 1:
        yield draw
        return
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_draw, args=(draw, theirs), daemon=True)
    process.start()
    theirs.close()

    def finish() -> list[Path]:
        try:
            found: list[Path] = ours.recv()
        except EOFError:
            return draw()
        return found

    try:
        yield finish
    finally:
        process.kill()
        process.join()
        ours.close()


def _draw(draw: Draw, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this one
    try:
        answer.send(draw())
    except Exception:  # the parent draws again, and raises what is wrong
        answer.close()
