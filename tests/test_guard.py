"""Nothing that a worker starts outlives it or its owner, and its log does not grow without end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import strays
import tiny_sweep as tiny

from pqbench.core.errors import OutOfMemoryFailure, StageTimeout
from pqbench.workers.guard import LINUX, NAME, shorten
from pqbench.workers.stage import StageRunner
from pqbench.workers.stage_spec import StageSpec

pytestmark = pytest.mark.skipif(not LINUX, reason="needs Linux's means")
HELPERS = str(Path(strays.__file__).parent)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HELPERS)


def until(what: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.02)
    return False


def alive(pids: list[int]) -> list[int]:
    """Those that still run."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("memory_mb", ["0", "4000"])
def test_owner_that_is_killed_takes_all_with_it(tmp_path: Path, memory_mb: str) -> None:
    out = tmp_path / "pids"
    owner = subprocess.Popen(
        [sys.executable, strays.__file__, str(out), memory_mb],
        env=tiny.environment(),
        start_new_session=True,
    )
    assert until(out.exists, 90)  # it imports torch, perhaps from a cold disk
    pids = json.loads(out.read_text())
    assert len(alive(pids)) == 4
    owner.kill()
    owner.wait()
    assert until(lambda: not alive(pids)), alive(pids)


@pytest.mark.parametrize("memory_mb", [None, 4000.0])
@pytest.mark.parametrize("end", ["in time", "too long", "killed"])
def test_stage_leaves_nothing(tmp_path: Path, memory_mb: float | None, end: str) -> None:
    out = tmp_path / "pids"
    arguments = {
        "out": str(out),
        "seconds": 60 if end == "too long" else 0,
        "signal_itself": int(signal.SIGKILL) if end == "killed" else 0,
    }
    spec = StageSpec("leave", "strays:leave", arguments, timeout_s=15, memory_mb=memory_mb)
    runner = StageRunner(None, tmp_path / "work", tmp_path / "logs")
    if end == "in time":
        runner.run(spec)
    else:
        if end == "too long":
            spec = StageSpec(**{**spec.__dict__, "timeout_s": 6.0})
        with pytest.raises((StageTimeout, OutOfMemoryFailure)):
            runner.run(spec)
    pids = json.loads(out.read_text())
    assert until(lambda: not alive(pids)), alive(pids)
    assert until(lambda: not _guards()), "a guard outlives its worker"


def _guards() -> list[int]:
    return alive([p.pid for p in psutil.Process().children() if p.name() == NAME])


def test_log_keeps_head_and_tail(tmp_path: Path) -> None:
    runner = StageRunner(None, tmp_path / "work", tmp_path / "logs")
    runner.run(StageSpec("chatter", "strays:chatter", {"megabytes": 24}))
    log = tmp_path / "logs" / "chatter.log"
    assert until(lambda: log.stat().st_size < 12 * 2**20)
    text = log.read_text()
    assert text.startswith("the beginning")
    assert "bytes of this log were removed here" in text
    assert text.rstrip().endswith("the end")


def test_short_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"0123456789" * 10)
    descriptor = os.open(log, os.O_RDWR)
    shorten(descriptor, limit=100, kept=20)
    assert log.read_bytes() == b"0123456789" * 10
    shorten(descriptor, limit=99, kept=20)
    assert log.read_bytes().startswith(b"0123456789" * 2 + b"\n[pqbench: 60 bytes")
    assert log.read_bytes().endswith(b"0123456789" * 2)
    os.close(descriptor)


FORKED = """
import sys, pathlib
from pqbench.workers.forkserver import server
from pqbench.workers.stage import StageRunner
from pqbench.workers.stage_spec import StageSpec
folder = pathlib.Path(sys.argv[1])
assert server(1) is not None
spec = StageSpec("s", "strays:leave", {"out": str(folder / "pids"), "seconds": 0}, threads=1)
StageRunner(None, folder / "work", folder / "logs").run(spec)
"""


def test_server_starts_below_a_long_temporary_folder_and_leaves_nothing(tmp_path: Path) -> None:
    long = tmp_path / ("t" * 100)
    long.mkdir()
    environment = {**tiny.environment(TMPDIR=str(long)), "XDG_RUNTIME_DIR": ""}
    done = subprocess.Popen([sys.executable, "-c", FORKED, str(tmp_path)], env=environment)
    assert done.wait() == 0
    folders = [*long.rglob("fork-*"), *Path("/tmp").glob(f"pqbench-{os.getuid()}/fork-*")]
    assert not [folder for folder in folders if folder.name == f"fork-{done.pid}"]


INTERRUPTED = """
import os, signal, sys, time
from pqbench.core import interrupt
interrupt.install()
number = getattr(signal, sys.argv[1])
try:
    os.kill(os.getpid(), number)
    time.sleep(5)
except interrupt.Stopped:
    os.kill(os.getpid(), number)  # once more while it cleans up
    time.sleep(0.1)
    print("stopped", end="")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_of_a_scheduler_stops_at_once(name: str) -> None:
    # The suite may have been started by nohup, which has its children ignore a hangup.
    text = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)" + INTERRUPTED
    done = subprocess.run(
        [sys.executable, "-c", text, name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped"), done.stderr


def test_ignored_hangup_stays_ignored() -> None:
    text = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + INTERRUPTED.replace(
        "time.sleep(5)", "print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", text, "SIGHUP"], capture_output=True, check=True)
    assert done.stdout == b"went on\n"
