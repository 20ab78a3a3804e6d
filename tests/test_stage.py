"""A stage that dies in any way is an error with a name in the parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pqbench.cache import Cache
from pqbench.cache.users_code import users_code
from pqbench.core.artifact import RESULT
from pqbench.core.errors import (
    DataError,
    OutOfMemoryFailure,
    PqbenchError,
    StageTimeout,
    WorkerCrash,
)
from pqbench.machine import device_lock
from pqbench.workers.stage import StageRunner
from pqbench.workers.stage_spec import StageSpec, cache_key

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
    if kind == "allocate":
        import numpy as np

        np.ones(2**28)
    os.kill(os.getpid(), getattr(signal, kind))
    return {}


def sleep(workdir: Path, seconds: float) -> dict[str, Any]:
    (workdir / "started.aside").write_text(str(os.getpid()))
    (workdir / "started.aside").rename(workdir / "started")
    time.sleep(seconds)
    return {}


def edit(workdir: Path, artifact: str, path: str, value: str) -> dict[str, Any]:
    """A stage that writes where it must not: into its input, or a file that a setting names."""
    Path(path).write_text(value)
    return {}


def half(workdir: Path, kind: str, resume: str | None = None) -> dict[str, Any]:
    """Interrupted the first time, half done; then it finds what it has put there."""
    if resume is None:
        return {"found": None}
    place = Path(resume) / "half"
    if place.is_file():
        return {"found": place.read_text()}
    place.parent.mkdir(parents=True)
    place.write_text("done by half")
    return fail(workdir, kind)


HOLD = """
import sys, time
from pqbench.machine import device_lock
with device_lock.timing():
    print("in", flush=True)
    time.sleep(2)
    print(time.monotonic(), flush=True)
"""


def free(shared: bool) -> bool:
    """Whether another could take the device at once, to share it or else alone."""
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with (device_lock.lock_folder() / "cpu.lock").open("rb") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def begin(workdir: Path) -> dict[str, Any]:
    return {"began": time.monotonic()}


def time_something(workdir: Path) -> dict[str, Any]:
    """A stage that times by itself: to be shared, alone and shared is what comes out."""
    found = [(free(shared=True), free(shared=False))]
    with device_lock.timing():
        found.append((free(shared=True), free(shared=False)))
    found.append((free(shared=True), free(shared=False)))
    return {"free": found}


def spec(function: str, timeout_s: float = 60.0, **arguments: Any) -> StageSpec:
    return StageSpec(function, f"{HERE}:{function}", arguments, timeout_s=timeout_s, memory_mb=1024)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageRunner:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return StageRunner(Cache(tmp_path / "cache"), tmp_path / "work", tmp_path / "logs")


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
        ("allocate", OutOfMemoryFailure, "llocate"),
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
    assert not list(runner.cache.stages.iterdir())


def test_stage_that_hangs_is_stopped_at_its_time_limit(runner: StageRunner) -> None:
    with pytest.raises(StageTimeout, match="longer than 3 s"):
        runner.run(spec("fail", timeout_s=3.0, kind="hang"))


def test_stage_dies_with_its_parent_and_the_next_one_finds_nothing_in_the_way(
    runner: StageRunner, tmp_path: Path
) -> None:
    assert runner.cache is not None
    code = (
        "from pathlib import Path; from pqbench.cache import Cache;"
        "from pqbench.workers.stage import StageRunner; import test_stage as t;"
        f"r = StageRunner(Cache(Path({str(runner.cache.root)!r})), Path('w'),"
        f" Path({str(tmp_path / 'logs')!r}));"
        "r.run(t.spec('sleep', seconds=100))"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + 60
    while not list(runner.cache.stages.glob("*.tmp/started")) and time.monotonic() < end:
        time.sleep(0.05)
    [started] = runner.cache.stages.glob("*.tmp/started")
    child = psutil.Process(int(started.read_text()))
    parent.kill()
    parent.wait()
    child.wait(20)
    assert runner.cache.clean() == [started.parent]
    assert not list(runner.cache.stages.iterdir())
    assert not list(runner.cache.locks.glob("*"))


def test_stage_waits_while_another_times_and_the_wait_is_not_its_own(runner: StageRunner) -> None:
    path = str(Path(__file__).parents[1])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    began = time.monotonic()
    result = runner.run(spec("begin"))
    waited = float(holder.communicate(timeout=20)[0]) - began
    assert result.value["began"] > began + waited
    assert result.seconds <= time.monotonic() - began - waited


@pytest.mark.parametrize("memory_mb", [None, 1024], ids=["forked", "fresh"])
def test_stage_shares_the_device_and_may_time_by_itself(
    runner: StageRunner, memory_mb: float | None
) -> None:
    result = runner.run(replace(spec("time_something"), memory_mb=memory_mb))
    assert result.value["free"] == [[True, False], [False, False], [True, False]]
    assert free(shared=False)


@pytest.mark.parametrize("memory_mb", [None, 1024], ids=["forked", "fresh"])
def test_stage_that_is_killed_gives_the_device_back(
    runner: StageRunner, memory_mb: float | None
) -> None:
    with pytest.raises(OutOfMemoryFailure, match="SIGKILL"):
        runner.run(replace(spec("fail", kind="SIGKILL"), memory_mb=memory_mb))
    assert free(shared=False)


def test_users_own_code_enters_the_key_and_a_library_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_steps.py").write_text("class Step: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = users_code({"step": {"_target_": "my_own_steps.Step"}, "n": [{"_target_": "torch.nn"}]})
    assert list(found) == ["my_own_steps.py"]
    before = found["my_own_steps.py"]
    (tmp_path / "my_own_steps.py").write_text("class Step:\n    x = 1\n")
    assert users_code({"_target_": "my_own_steps.Step"})["my_own_steps.py"] != before


def test_cache_key_follows_content_not_path() -> None:
    one = StageSpec("s", "m:f", {"folder": "/a"}, key={"folder": "content"})
    two = StageSpec("s", "m:f", {"folder": "/b"}, key={"folder": "content"})
    assert cache_key(one) == cache_key(two)
    assert cache_key(one) != cache_key(StageSpec("s", "m:f", {"folder": "/a"}))
    json.dumps(dict(one.arguments))


@pytest.mark.parametrize("kind", ["SIGKILL", "hang"])
def test_resumable_stage_finds_its_half_done_work_once(kind: str, runner: StageRunner) -> None:
    assert runner.cache is not None
    halves = replace(spec("half", timeout_s=5.0, kind=kind), resumable=True)
    with pytest.raises((OutOfMemoryFailure, StageTimeout)):
        runner.run(halves)
    [left] = runner.cache.unfinished.iterdir()
    assert left.name == cache_key(halves)
    assert runner.cache.clean() == [], "the next sweep begins with this"
    assert runner.run(halves).value == {"found": "done by half"}
    assert not left.exists()


def test_resumable_stage_that_fails_by_itself_begins_anew(runner: StageRunner) -> None:
    assert runner.cache is not None
    halves = replace(spec("half", kind="data"), resumable=True)
    with pytest.raises(DataError):
        runner.run(halves)
    assert not list(runner.cache.unfinished.iterdir())


def test_resumable_stage_without_cache_is_told_so(runner: StageRunner) -> None:
    runner.cache = None
    halves = replace(spec("half", kind="data"), resumable=True)
    assert runner.run(halves).value == {"found": None}


def test_key_follows_the_content_of_every_file_that_an_argument_names(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    weights.write_text("one")
    one = StageSpec("s", "m:f", {"model": {"any": ["x", str(weights)]}}, key={})
    before = cache_key(one)
    assert cache_key(one) == before
    weights.write_text("two")
    assert cache_key(one) != before


def test_stage_is_made_again_when_a_file_that_it_names_changed(
    runner: StageRunner, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    path.write_text("one")
    task = spec("edit", artifact="", path=os.devnull, value=str(path))
    assert not runner.run(task).cached
    assert runner.run(task).cached
    path.write_text("two")
    assert not runner.run(task).cached


def test_file_that_changes_while_a_stage_uses_it_is_an_error_that_names_it(
    runner: StageRunner, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    path.write_text("one")
    with pytest.raises(DataError, match=r"w\.pth changed while stage edit used it"):
        runner.run(spec("edit", artifact="", path=str(path), value="two"))
    assert runner.cache is not None
    assert not list(runner.cache.stages.iterdir())


@pytest.mark.parametrize(("name", "what"), [("file.txt", "changed"), ("more.txt", "added")])
def test_stage_that_edits_its_input_is_an_error_and_the_cache_lets_go_of_it(
    runner: StageRunner, name: str, what: str
) -> None:
    made = runner.run(spec("work", value=3))
    arguments = {"artifact": str(made.folder), "path": str(made.folder / name), "value": "4"}
    editing = replace(spec("edit", **arguments), key={"artifact": made.key}, made=("artifact",))
    with pytest.raises(PqbenchError, match=f"stage edit {what} {name} in its input"):
        runner.run(editing)
    assert not made.folder.exists()
    assert not runner.run(spec("work", value=3)).cached
