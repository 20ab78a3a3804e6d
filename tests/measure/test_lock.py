"""The device lock between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pqbench.core.errors import OutputError
from pqbench.machine import device_lock as lock

HOLD = """
import sys, time
from pqbench.core.errors import OutputError
from pqbench.machine import device_lock as lock
with getattr(lock, sys.argv[1])(sys.argv[2]):
    print(f"in {time.monotonic()}", flush=True)
    sys.stdin.readline()
    print(f"out {time.monotonic()}", flush=True)
"""


class Holder:
    """Another process that takes the lock."""

    def __init__(self, kind: str, device: str = "cpu") -> None:
        root = str(Path(lock.__file__).parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, kind, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )

    def moment(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline().split()[1])

    def release(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def held_apart(first: str, second: str, devices: tuple[str, str] = ("cpu", "cpu")) -> bool:
    """Whether the second gets in only after the first is out."""
    one = Holder(first, devices[0])
    one.moment()
    two = Holder(second, devices[1])
    time.sleep(0.7)  # the second has had time to get in, if it may
    one.release()
    out, entered = one.moment(), two.moment()
    two.release()
    one.process.communicate(timeout=20)
    two.process.communicate(timeout=20)
    return entered > out


def test_two_never_time_at_once() -> None:
    assert held_apart("timing", "timing")


def test_timing_waits_for_work_and_work_for_timing() -> None:
    assert held_apart("working", "timing")
    assert held_apart("timing", "working")


def test_timing_on_a_gpu_also_holds_the_cpu_that_feeds_it() -> None:
    assert held_apart("timing", "timing", ("cuda:0", "cpu"))


def test_work_is_shared() -> None:
    one = Holder("working")
    one.moment()
    two = Holder("working")
    two.moment()  # gets in while the first still holds it
    for holder in (one, two):
        holder.release()
        holder.process.communicate(timeout=20)


def test_new_work_does_not_starve_who_waits_to_time() -> None:
    worker = Holder("working")
    worker.moment()
    timer = Holder("timing")
    time.sleep(1.0)  # it waits at the lock, holding the gate
    late = Holder("working")
    time.sleep(0.5)
    worker.release()
    timer_in = timer.moment()
    timer.release()
    timer_out, late_in = timer.moment(), late.moment()
    late.release()
    assert timer_in < timer_out < late_in
    for holder in (worker, timer, late):
        holder.process.communicate(timeout=20)


def test_a_killed_holder_gives_the_lock_back() -> None:
    one = Holder("timing")
    one.moment()
    one.process.kill()
    one.process.communicate()
    with lock.timing():
        pass


def test_lock_folder_is_this_users_alone(tmp_path: Path) -> None:
    folder = lock.private(tmp_path / "locks")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert lock.private(folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["link", "file", "another user's"])
def test_lock_folder_that_somebody_else_has_put_there_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o700)
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, 12345)
    with pytest.raises(OutputError, match="locks"):
        lock.private(folder)


def test_lock_file_that_is_a_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    victim = tmp_path / "victim"
    (lock.private(lock.lock_folder()) / "cpu.lock").symlink_to(victim)
    with pytest.raises(OSError, match=r"cpu\.lock"), lock.timing():
        pass
    assert not victim.exists()
