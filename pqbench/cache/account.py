"""How large a cache is, kept in a file: putting an entry in need not look at all the others.

The figure is never too small for long: an entry is counted before it is put in place and taken off
after it is gone, under a lock. Where the number of entries is not the one in the account (a process
died in between, a user removed a folder, another version wrote), everything is counted anew.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from pqbench.core.files import write_text

KINDS = ("stages", "records")
FILE = "size.json"
LOCK = "account.lock"


@dataclass(frozen=True)
class Total:
    """What an account says.

    Attributes:
        bytes: Of all files of all entries.
        entries: Number of entries.
        stuck: Bytes that the last eviction could not bring below the limit; 0 if it could.
    """

    bytes: int
    entries: int
    stuck: int = 0


def folder_bytes(folder: Path | str) -> int:
    """Bytes of all files below a folder; 0 of one that is gone."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(entry.path)
                elif entry.is_file():
                    total += entry.stat().st_size
    except FileNotFoundError:
        return total
    return total


def entry_folders(root: Path) -> list[str]:
    """Paths of all entries, half-made ones left out."""
    found: list[str] = []
    for kind in KINDS:
        with contextlib.suppress(FileNotFoundError), os.scandir(root / kind) as entries:
            found += [entry.path for entry in entries if not entry.name.endswith(".tmp")]
    return found


class Account:
    """The account of one cache.

    Args:
        root: The cache's folder.
        locks: Its folder of locks.

    Attributes:
        counted: How often everything was counted.
    """

    def __init__(self, root: Path, locks: Path) -> None:
        self.root = root
        self.locks = locks
        self.counted = 0

    @contextlib.contextmanager
    def adding(self, size: int) -> Iterator[None]:
        """Around putting an entry of so many bytes in place."""
        with self._locked():
            now = self._read()
            if now is not None:
                self._write(Total(now.bytes + size, now.entries + 1, now.stuck))
            yield

    def taken(self, size: int) -> None:
        """An entry of so many bytes is gone."""
        with contextlib.suppress(OSError), self._locked():
            now = self._read()
            if now is not None:
                self._write(Total(max(now.bytes - size, 0), now.entries - 1, now.stuck))

    def total(self) -> Total:
        """What there is; counted anew where the account cannot be right."""
        with self._locked():
            now = self._read()
            if now is None or now.entries != len(entry_folders(self.root)):
                now = self._count(0)
            return now

    def recount(self, limit: float) -> None:
        """Count everything; what is above the limit now could not be evicted."""
        with self._locked():
            now = self._count(0)
            if now.bytes > limit:
                self._write(Total(now.bytes, now.entries, now.bytes))

    def _count(self, stuck: int) -> Total:
        self.counted += 1
        folders = entry_folders(self.root)
        now = Total(sum(folder_bytes(folder) for folder in folders), len(folders), stuck)
        self._write(now)
        return now

    def _read(self) -> Total | None:
        try:
            value = json.loads((self.root / FILE).read_text(encoding="utf-8"))
            return Total(int(value["bytes"]), int(value["entries"]), int(value["stuck"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, now: Total) -> None:
        write_text(self.root / FILE, json.dumps(asdict(now)) + "\n")

    def _locked(self) -> FileLock:
        self.locks.mkdir(parents=True, exist_ok=True)
        return FileLock(self.locks / LOCK)
