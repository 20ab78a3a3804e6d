"""Figures of many records are drawn by a process of their own, wherever that is safe."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pqbench.core.errors import ConfigError
from pqbench.report.drawing import MANY, drawn_beside


def test_drawn_beside_many_records_draws_in_another_process(tmp_path: Path) -> None:
    where = tmp_path / "pid"

    def draw() -> list[Path]:
        where.write_text(str(os.getpid()))
        return [where]

    with drawn_beside(draw, MANY) as finished:
        assert finished() == [where]
    assert int(where.read_text()) != os.getpid()


@pytest.mark.parametrize("records", [0, MANY - 1])
def test_drawn_beside_few_records_draws_here_when_asked(records: int) -> None:
    asked = []
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


def test_drawn_beside_a_failing_process_raises_here() -> None:
    def draw() -> list[Path]:
        raise ConfigError("no room for a figure")

    with drawn_beside(draw, MANY) as finished, pytest.raises(ConfigError, match="no room"):
        finished()


def test_drawn_beside_a_killed_process_draws_here(tmp_path: Path) -> None:
    mine, where = os.getpid(), tmp_path / "pid"

    def draw() -> list[Path]:
        if os.getpid() != mine:
            os._exit(9)
        where.write_text(str(mine))
        return [where]

    with drawn_beside(draw, MANY) as finished:
        assert finished() == [where]
    assert int(where.read_text()) == mine


def test_drawn_beside_leaves_no_process_where_the_texts_fail(tmp_path: Path) -> None:
    where = tmp_path / "pid"

    def draw() -> list[Path]:
        where.write_text(str(os.getpid()))
        threading.Event().wait(60)
        return []

    def texts() -> None:
        while not where.exists() or not where.read_text():
            pass
        raise ConfigError("a file is in the way")

    with pytest.raises(ConfigError, match="in the way"), drawn_beside(draw, MANY):
        texts()
    with pytest.raises(ProcessLookupError):
        os.kill(int(where.read_text()), 0)
