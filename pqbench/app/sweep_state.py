"""A sweep on disk: which command it is, who runs it now, and how far it has got.

The same command goes back to its unfinished sweep. One process at a time runs a sweep; its lock
goes with it, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import ConfigError, DataError, OutputError
from pqbench.core.files import read_limited, write_json
from pqbench.core.ownership import claim, is_ours, note
from pqbench.core.record.reading import build
from pqbench.core.secrets import mask_text

if TYPE_CHECKING:
    from pqbench.core.record import Record

log = logging.getLogger("pqbench")

STATE = "sweep.json"
PROGRESS = "progress.jsonl"
LOCK = ".sweep.lock"
_NOT_THE_COMMAND = ("force", "retry", "budget", "hydra.sweeper.budget", "hydra.sweep.dir")
_NAMES = (STATE, PROGRESS, "multirun.yaml", "report", "search.json")
_PROBED_S = 1.0  # another process holds the lock for a moment to see whether somebody does
_MINUTE = 60
_SHARED = ("prepare_val", "prepare_train", "prepare_model", "fit")
"""Stages that one experiment makes for those after it: they say nothing of the time left."""


class BusyError(ConfigError):
    """Another process runs a sweep in this folder."""


@dataclass(frozen=True)
class State:
    """What ``sweep.json`` holds.

    Attributes:
        command: Arguments that name the sweep.
        total: Experiments it is to have, without their baselines; None if not known beforehand.
        started: Start of this attempt, in s since the epoch.
        finished: Whether it came to its end, failures included.
    """

    command: list[str]
    total: int | None
    started: float
    finished: bool = False


def command_of(overrides: Sequence[str]) -> list[str]:
    """The arguments without those that say how to run the sweep, not which; no secrets."""
    return [
        mask_text(o) for o in overrides if o.lstrip("+").partition("=")[0] not in _NOT_THE_COMMAND
    ]


def read_state(folder: Path) -> State | None:
    """The state of a sweep; None if there is no readable one."""
    try:
        state: State = build(State, read_limited(folder / STATE))
    except DataError:
        return None
    return state


def find_earlier(parent: Path, command: Sequence[str], finished_too: bool) -> Path | None:
    """The newest sweep of the same command that is not finished and that nobody runs now."""
    found: list[tuple[float, Path]] = []
    for path in parent.glob(f"*/{STATE}"):
        state = read_state(path.parent)
        if state is None or not is_ours(path.parent) or state.command != list(command):
            continue
        if (finished_too or not state.finished) and not _is_running(path.parent):
            found.append((state.started, path.parent))
    return max(found)[1] if found else None


def _is_running(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK, timeout=0):
            (folder / LOCK).unlink(missing_ok=True)  # of a process that died
            return False
    except Timeout:
        return True
    except OSError:  # another user's: it cannot be locked, so it cannot be gone on with
        log.info("  %s cannot be written: a sweep of its own is begun", folder)
        return True


class Sweep:
    """A sweep that this process runs.

    Args:
        folder: Its folder; made if it is new.
        command: Arguments that name it.
        total: How many experiments it is to have.

    Raises:
        BusyError: Another process runs a sweep in this folder.
        ConfigError: A file of the user's is in the way.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, command: Sequence[str], total: int | None) -> None:
        from filelock import FileLock, Timeout  # --help needs neither

        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=_PROBED_S)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._claim()
            self.state = State(list(command), total, time.time())
            (folder / PROGRESS).unlink(missing_ok=True)
            write_json(folder / STATE, asdict(self.state))
        except Timeout:
            raise BusyError(
                f"another process runs a sweep in {folder}",
                hint="wait for it, or set another hydra.sweep.dir",
            ) from None
        except OSError as error:
            raise unwritable_folder(folder, error) from error

    def _claim(self) -> None:
        """Prove that what the sweep will write is free or pqbench's own.

        Raises:
            ConfigError: It is not; nothing of this sweep is left in the folder.
        """
        hint = "set another hydra.sweep.dir, or move it away"
        try:
            if not is_ours(self.folder):
                jobs = [p for p in self.folder.glob("[0-9]*_*") if p.is_dir() and any(p.iterdir())]
                for path in jobs:
                    if not is_ours(path):
                        raise ConfigError(f"{path} was not made by pqbench", hint=hint)
            claim(self.folder, _NAMES, hint)
        except ConfigError:
            (self.folder / LOCK).unlink(missing_ok=True)
            self._lock.release()
            raise

    def finish(self) -> None:
        """Mark the sweep as come to its end and let go of it."""
        write_json(self.folder / STATE, asdict(replace(self.state, finished=True)))
        note(self.folder)
        (self.folder / LOCK).unlink(missing_ok=True)  # filelock sees an unlinked file
        self._lock.release()


def unwritable_folder(folder: Path, error: OSError) -> OutputError:
    """Why results cannot be written to a folder."""
    return OutputError(
        f"cannot write to {folder}: {error.strerror or error}",
        hint="set outputs= to a folder that can be written",
    )


def note_start(folder: Path, job: str) -> None:
    """Note that an experiment has started."""
    _append(folder, {"job": job, "status": "running", "at": time.time()})


def note_end(folder: Path, job: str, record: Record) -> None:
    """Note how an experiment ended."""
    first = record.speedup[0] if record.speedup else None
    against = record.accuracy.against_baseline if record.accuracy else None
    experiment = record.experiment
    _append(
        folder,
        {
            "job": job,
            "status": record.status,
            "at": time.time(),
            "title": f"{experiment.model} · {experiment.recipe_name} · {experiment.backend}",
            "speedup": first.ratio if first else None,
            "drop_pt": against.drop_pt if against else None,
            "shared_s": sum(s.seconds for s in record.stages if s.name in _SHARED and not s.cached),
        },
    )


def _append(folder: Path, entry: dict[str, Any]) -> None:
    with (folder / PROGRESS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class Progress:
    """How far a sweep has got, of whatever process runs its jobs; each line is read once.

    Args:
        folder: The sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self._read = self._inode = 0
        self._status: dict[str, str] = {}
        self._count: Counter[str] = Counter()
        self._shared: dict[str, float] = {}
        self._best: dict[str, Any] | None = None

    def view(self) -> str:
        """One line: done, running, failed and left, the time that is left, the best so far."""
        self._read_on()
        state = read_state(self.folder)
        running, ok = self._count["running"], self._count["ok"]
        ended = len(self._status) - running
        of = f" of {state.total}" if state and state.total else ""
        parts = [f"{ended}{of} done", f"{ended - ok} without a result" * (ok < ended)]
        parts.append(f"{running} running" * bool(running))
        if state and state.total:
            left = max(0, state.total - ended)
            if left and ended:
                took = time.time() - state.started - sum(self._shared.values())
                parts.append(f"{left} left, about {_duration(left * max(0.0, took) / ended)}")
        best = self._best
        if best:
            drop = "" if best["drop_pt"] is None else f", drop {best['drop_pt']:.1f} pt"
            parts.append(f"fastest {best['title']} ({best['speedup']:.2f}x{drop})")
        return "; ".join(part for part in parts if part)

    def _read_on(self) -> None:
        with (self.folder / PROGRESS).open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_size < self._read or self._inode not in (0, stat.st_ino):
                self._begin()  # the sweep was begun again
            self._inode = stat.st_ino
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(end)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            try:
                entry = {"status": "failed", **json.loads(line)}
                job, status = str(entry["job"]), str(entry["status"])
                shared = float(entry.get("shared_s", 0))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # a line that a dying process cut
            if job in self._status:
                self._count[self._status[job]] -= 1
            self._status[job], self._shared[job] = status, shared
            self._count[status] += 1
            ended = status != "running" and entry.get("speedup")
            if ended and (self._best is None or entry["speedup"] > self._best["speedup"]):
                self._best = entry


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min" if minutes < 2 * _MINUTE else f"{minutes // 60} h {minutes % 60} min"
