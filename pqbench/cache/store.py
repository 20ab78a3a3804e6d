"""The entries of a cache: found and checked, made aside under a lock, evicted above a size.

Whoever uses an entry holds it open, so that another process never evicts it meanwhile; locks and
holds belong to open files and the kernel takes them back when their process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pqbench.cache.account import KINDS, Account, folder_bytes
from pqbench.cache.seal import seal, unseal
from pqbench.core.artifact import RESULT
from pqbench.core.errors import DataError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

GIB = 2**30
_LOCK_WAIT_S = 0.0
_ENTRY = r"[0-9a-f]{16}(-?[0-9a-f]{16})?"  # a stage's key, or a record's fingerprint and identity
_KEY = re.compile(_ENTRY)
_HALF_MADE = re.compile(rf"{_ENTRY}\.\d+(-\d+)?\.tmp")
_LOCK = re.compile(rf"(evict|account|{_ENTRY}(\.(making|push))?)\.lock")
_SLACK = 0.02  # of the limit: so much more is freed, so that not every next entry evicts again
UNFINISHED_S = 7 * 24 * 3600.0  # half-done work that nobody went on with for so long is removed


@dataclass(frozen=True)
class Entry:
    """One entry, as listed.

    Attributes:
        folder: Its folder.
        kind: ``stages`` or ``records``.
        name: The stage's name, or the title of the experiment.
        size: Bytes of all its files.
        used: When it was last used, in s since the epoch.
    """

    folder: Path
    kind: str
    name: str
    size: int
    used: float


class Cache:
    """The cache of one ``outputs`` folder, as one experiment uses it.

    Args:
        root: Its folder; made when something is kept.
        limit_gb: Evict what was used longest ago above this size in GiB; None: no limit.
    """

    def __init__(self, root: Path, limit_gb: float | None = None) -> None:
        self.root = root
        self.limit_gb = limit_gb
        self.stages = root / "stages"
        self.records = root / "records"
        self.locks = root / "locks"
        self.unfinished = root / "unfinished"  # by key: half-done work of a stage that was killed
        self.account = Account(root, self.locks)
        self._held: dict[Path, int] = {}

    def lock(self, name: str) -> FileLock:
        """The lock under which an entry is made."""
        self.locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.locks / f"{name}.lock")

    def find(self, folder: Path) -> dict[str, Any] | None:
        """The payload of an entry that is there and whole; held until :meth:`close`.

        A damaged one is removed with a warning.
        """
        if not self._hold(folder):
            return None
        try:
            payload = unseal(folder)
        except FileNotFoundError:
            return None
        except DataError as error:
            log.warning("damaged cache entry removed: %s", error)
            self.remove(folder)
            return None
        with contextlib.suppress(OSError):  # a cache that may only be read is still a cache
            os.utime(folder / RESULT)
        return payload

    def aside(self, folder: Path) -> Path:
        """An empty folder beside an entry, to make it in; call under the entry's lock.

        What a process that died left there is removed.
        """
        for left in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        aside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        aside.mkdir(parents=True)
        return aside

    def keep(self, aside: Path, folder: Path, payload: Mapping[str, Any]) -> None:
        """Seal what was made aside and put it in place, then evict what no longer fits.

        What there is is known from the account: others are looked at only above the limit, and
        then a little more than needed goes.
        """
        seal(aside, payload)
        self.remove(folder)
        with self.account.adding(folder_bytes(aside)):
            aside.rename(folder)
        self._hold(folder)
        if self.limit_gb is None:
            return
        limit = self.limit_gb * GIB
        total = self.account.total()
        if total.bytes > max(limit, total.stuck and total.stuck + _SLACK * limit):
            self.evict(self.limit_gb * (1 - _SLACK))

    def remove(self, folder: Path) -> None:
        """Remove an entry: out of sight first, so that nobody sees half of it."""
        descriptor = self._held.pop(folder, None)
        if descriptor is not None:
            os.close(descriptor)
        gone = folder.with_name(f"{folder.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return
        size = folder_bytes(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self.account.taken(size)

    def entries(self) -> list[Entry]:
        """Every entry, the one used longest ago first."""
        found = []
        for kind in KINDS:
            for path in (self.root / kind).glob(f"*/{RESULT}"):
                if path.parent.suffix == ".tmp":
                    continue
                with contextlib.suppress(FileNotFoundError):  # evicted while we look
                    found.append(Entry(path.parent, kind, _name(path), *_size_and_use(path.parent)))
        return sorted(found, key=lambda e: (e.used, e.folder.name))

    def evict(self, limit_gb: float | None = None) -> list[Entry]:
        """Remove stages, the one used longest ago first, until the limit holds.

        Finished records count but stay: they are results. So does what a process uses now.

        Args:
            limit_gb: Limit in GiB; None takes the cache's own.

        Returns:
            What was removed.
        """
        limit = self.limit_gb if limit_gb is None else limit_gb
        if limit is None:
            return []
        removed = []
        try:
            with FileLock(self._made(self.locks) / "evict.lock", timeout=_LOCK_WAIT_S):
                entries = self.entries()
                total = sum(e.size for e in entries)
                for entry in entries:
                    if total <= limit * GIB:
                        break
                    if entry.kind == "stages" and self._remove_unused(entry.folder):
                        total -= entry.size
                        removed.append(entry)
                self.account.recount(limit * GIB)
        except Timeout:
            return []  # another process is at it
        for entry in removed:
            log.info("    cache: removed %s (%s), not used for longest", entry.name, entry.folder)
        return removed

    def clean(self) -> list[Path]:
        """Remove what dead processes left: half-made entries, and lock files that nobody holds.

        Work that can be resumed stays for a week.

        Returns:
            The half-made entries that were removed.
        """
        removed = []
        for left in _named(self.unfinished, _KEY):
            try:
                with FileLock(self._made(self.locks) / f"{left.name}.lock", timeout=_LOCK_WAIT_S):
                    if time.time() - left.stat().st_mtime > UNFINISHED_S:
                        shutil.rmtree(left, ignore_errors=True)
                        removed.append(left)
            except (Timeout, OSError):
                continue  # in use, or not ours to remove
        for kind in KINDS:
            for left in _named(self.root / kind, _HALF_MADE):
                name = left.name.split(".")[0]
                try:
                    with FileLock(self._made(self.locks) / f"{name}.lock", timeout=_LOCK_WAIT_S):
                        shutil.rmtree(left, ignore_errors=True)
                        removed.append(left)
                except (Timeout, OSError):
                    continue  # being made right now, or not ours to remove
        for path in _named(self.locks, _LOCK):
            with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=_LOCK_WAIT_S):
                path.unlink(missing_ok=True)  # filelock sees an unlinked file and takes a new one
        return removed

    def close(self) -> None:
        """Let go of the entries that were used."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _hold(self, folder: Path) -> bool:
        """Keep others from evicting an entry; False if it is not there."""
        if folder in self._held or sys.platform == "win32":
            return (folder / RESULT).is_file()
        try:
            descriptor = os.open(folder / RESULT, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not os.path.samestat(os.fstat(descriptor), (folder / RESULT).stat()):
                raise FileNotFoundError(folder)
        except OSError:
            os.close(descriptor)
            return False
        self._held[folder] = descriptor
        return True

    def _remove_unused(self, folder: Path) -> bool:
        """Remove an entry unless a process uses it, this one included."""
        if folder in self._held:
            return False
        if sys.platform == "win32":
            self.remove(folder)
            return True
        try:
            descriptor = os.open(folder / RESULT, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.remove(folder)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What in a folder bears a name that only this cache gives: never a user's file."""
    return sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))


def _name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("name", "?"))
    except (OSError, ValueError, AttributeError):
        return "?"


def _size_and_use(folder: Path) -> tuple[int, float]:
    return folder_bytes(folder), (folder / RESULT).stat().st_mtime
