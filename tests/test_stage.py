"""A stage that dies in any way is an error with a name in the parent."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pqbench.errors import (
    DataError,
    OutOfMemoryFailure,
    PqbenchError,
    StageTimeout,
    WorkerCrash,
)
from pqbench.stage import RESULT, StageRunner, StageSpec, cache_key

HERE = "tests.test_stage" if __name__.startswith("tests.") else Path(__file__).stem


def work(workdir: Path, value: int) -> dict[str, Any]:
    (workdir / "file.txt").write_text(str(value))
    return {"value": value, "pid": os.getpid()}


def fail(workdir: Path, kind: str) -> dict[str, Any]:
    if kind == "data":
        raise DataError("no images here", hint="put some there")
    if kind == "other":
        raise ZeroDivisionError("one over nothing")
    if kind == "hang":
        time.sleep(60)
    if kind == "exit":
        os._exit(7)
    if kind == "memory":
        raise MemoryError
    os.kill(os.getpid(), getattr(signal, kind))
    return {}


def spec(function: str, timeout_s: float = 60.0, **arguments: Any) -> StageSpec:
    return StageSpec(function, f"{HERE}:{function}", arguments, rooms=(), timeout_s=timeout_s)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageRunner:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return StageRunner(tmp_path / "cache", tmp_path / "work", tmp_path / "logs")


def test_stage_runs_in_its_own_process_and_keeps_its_files(runner: StageRunner) -> None:
    result = runner.run(spec("work", value=3))
    assert result.value["value"] == 3
    assert result.value["pid"] != os.getpid()
    assert (result.folder / "file.txt").read_text() == "3"
    assert not result.cached
    assert result.rss_peak_mb is not None
    assert result.rss_peak_mb > 1


def test_stage_is_found_the_second_time_and_not_with_other_arguments(runner: StageRunner) -> None:
    first, second, other = (runner.run(spec("work", value=v)) for v in (1, 1, 2))
    assert not first.cached
    assert second.cached
    assert second.value == first.value
    assert not other.cached


def test_stage_is_computed_again_when_a_file_is_missing_or_the_result_is_cut(
    runner: StageRunner,
) -> None:
    first = runner.run(spec("work", value=1))
    (first.folder / "file.txt").unlink()
    second = runner.run(spec("work", value=1))
    assert not second.cached
    (second.folder / RESULT).write_text('{"value": ')
    assert not runner.run(spec("work", value=1)).cached


def test_stage_without_cache_computes_each_time(tmp_path: Path, runner: StageRunner) -> None:
    runner.cache = None
    assert not runner.run(spec("work", value=1)).cached
    assert not runner.run(spec("work", value=1)).cached


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("data", DataError, "no images here"),
        ("other", PqbenchError, "ZeroDivisionError: one over nothing"),
        ("memory", OutOfMemoryFailure, "memory"),
        ("exit", WorkerCrash, "code 7"),
        ("SIGSEGV", WorkerCrash, "SIGSEGV"),
        ("SIGABRT", WorkerCrash, "SIGABRT"),
        ("SIGKILL", OutOfMemoryFailure, "SIGKILL"),
    ],
)
def test_stage_death_is_named_and_leaves_nothing(
    runner: StageRunner, kind: str, error: type[PqbenchError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        runner.run(spec("fail", kind=kind))
    assert caught.value.stage == "fail"  # type: ignore[attr-defined]
    assert runner.cache is not None
    assert not list((runner.cache / "stages").iterdir())


def test_stage_that_hangs_is_stopped_at_its_time_limit(runner: StageRunner) -> None:
    with pytest.raises(StageTimeout, match="longer than 3 s"):
        runner.run(spec("fail", timeout_s=3.0, kind="hang"))


def test_cache_key_follows_content_not_path() -> None:
    one = StageSpec("s", "m:f", {"folder": "/a"}, (), key={"folder": "content"})
    two = StageSpec("s", "m:f", {"folder": "/b"}, (), key={"folder": "content"})
    assert cache_key(one) == cache_key(two)
    assert cache_key(one) != cache_key(StageSpec("s", "m:f", {"folder": "/a"}, ()))
    json.dumps(dict(one.arguments))
