"""Figures of many records are drawn by a process of their own, wherever that is safe."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pqbench.report.drawing import MANY, drawn_beside

# It forks, so each runs in a fresh program: other tests leave threads in this one.
BEGIN = """
import os, sys, time
from pathlib import Path
from pqbench.core.errors import ConfigError
from pqbench.report.drawing import MANY, drawn_beside
mine, where = os.getpid(), Path(sys.argv[1]) / "pid"
"""


def said(text: str, folder: Path) -> str:
    """What a program prints that has no other thread; it ends within a minute."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + text, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_drawn_beside_many_records_draws_in_another_process(tmp_path: Path) -> None:
    text = """
def draw():
    where.write_text(str(os.getpid()))
    return [where]
with drawn_beside(draw, MANY) as finished:
    assert finished() == [where]
print(int(where.read_text()) != mine)
"""
    assert said(text, tmp_path) == "True"


@pytest.mark.parametrize("records", [0, MANY - 1])
def test_drawn_beside_few_records_draws_here_when_asked(records: int) -> None:
    asked: list[int] = []
    with drawn_beside(lambda: asked.append(os.getpid()) or [], records) as finished:
        assert not asked
        finished()
    assert asked == [os.getpid()]


def test_drawn_beside_another_thread_does_not_fork(tmp_path: Path) -> None:
    where, end = tmp_path / "pid", threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with drawn_beside(lambda: [where] * where.write_text(str(os.getpid())), MANY) as finished:
            finished()
    finally:
        end.set()
        thread.join()
    assert int(where.read_text()) == os.getpid()


def test_drawn_beside_a_failing_process_raises_here(tmp_path: Path) -> None:
    text = """
def draw():
    raise ConfigError("no room for a figure")
with drawn_beside(draw, MANY) as finished:
    try:
        finished()
    except ConfigError as error:
        print(error)
"""
    assert said(text, tmp_path) == "no room for a figure"


def test_drawn_beside_a_killed_process_draws_here(tmp_path: Path) -> None:
    text = """
def draw():
    if os.getpid() != mine:
        os._exit(9)
    return [where]
with drawn_beside(draw, MANY) as finished:
    print(finished() == [where])
"""
    assert said(text, tmp_path) == "True"


def test_drawn_beside_leaves_no_process_where_the_texts_fail(tmp_path: Path) -> None:
    text = """
def draw():
    where.with_name("new").write_text(str(os.getpid()))
    where.with_name("new").replace(where)
    time.sleep(60)
    return []
try:
    with drawn_beside(draw, MANY):
        while not where.exists():
            time.sleep(0.01)
        raise ConfigError("a file is in the way")
except ConfigError as error:
    print(error)
try:
    os.kill(int(where.read_text()), 0)
except ProcessLookupError:
    print("gone")
"""
    assert said(text, tmp_path) == "a file is in the way\ngone"
