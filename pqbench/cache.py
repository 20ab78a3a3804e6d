"""The content-addressed cache: entries checked when read, a size limit, and nothing left behind.

An entry is a folder of files under the hash of what made it, with a seal: ``result.json`` holds the
SHA-256 of every file and of itself. Entries are made aside, under a lock, and renamed into place.
Whoever uses an entry holds it open, so that another process never evicts it meanwhile; locks and
holds belong to open files and the kernel takes them back when their process dies, however it dies.

``python -m pqbench.cache list|verify|prune`` shows what is there, checks every file, and removes
what was used longest ago.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pqbench.artifact import file_sha256, write_json
from pqbench.errors import DataError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

RESULT = "result.json"
GIB = 2**30
KINDS = ("stages", "records")
_LOCK_WAIT_S = 0.0


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


def seal(folder: Path, payload: Mapping[str, Any]) -> None:
    """Close a folder: write ``result.json`` with the payload and the hash of every file.

    Args:
        folder: The folder, complete.
        payload: JSON-ready values to keep with it.
    """
    files = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RESULT
    }
    content = {**payload, "files": files}
    write_json(folder / RESULT, {**content, "seal": _hash(content)})


def unseal(folder: Path) -> dict[str, Any]:
    """The payload of a sealed folder, after a check of every file.

    Raises:
        FileNotFoundError: There is no such entry.
        DataError: The entry is damaged; the message says which file and how.
    """
    path = folder / RESULT
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        content = {k: v for k, v in stored.items() if k != "seal"}
        whole = stored["seal"] == _hash(content)
        files = dict(content["files"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is unreadable: {error}") from error
    if not whole:
        raise DataError(f"{path} is not what was written")
    for name, expected in files.items():
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name}: {error.strerror}") from error
        if found != expected:
            raise DataError(f"{folder / name} is not what was written")
    return content


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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
        """Seal what was made aside and put it in place, then evict what no longer fits."""
        seal(aside, payload)
        self.remove(folder)
        aside.rename(folder)
        self._hold(folder)
        self.evict()

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
        shutil.rmtree(gone, ignore_errors=True)

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
        except Timeout:
            return []  # another process is at it
        for entry in removed:
            log.info("    cache: removed %s (%s), not used for longest", entry.name, entry.folder)
        return removed

    def clean(self) -> list[Path]:
        """Remove what dead processes left: half-made entries, and lock files that nobody holds.

        Returns:
            The half-made entries that were removed.
        """
        removed = []
        for kind in KINDS:
            for left in (self.root / kind).glob("*.tmp"):
                name = left.name.split(".")[0]
                try:
                    with FileLock(self._made(self.locks) / f"{name}.lock", timeout=_LOCK_WAIT_S):
                        shutil.rmtree(left, ignore_errors=True)
                        removed.append(left)
                except (Timeout, OSError):
                    continue  # being made right now, or not ours to remove
        for path in self.locks.glob("*.lock"):
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


def _name(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("name", "?"))
    except (OSError, ValueError, AttributeError):
        return "?"


def _size_and_use(folder: Path) -> tuple[int, float]:
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return size, (folder / RESULT).stat().st_mtime


# -- the command -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """List, verify or prune.

    Returns:
        0; 1 if ``verify`` found a damaged entry; 2 if there is no cache.
    """
    parser = argparse.ArgumentParser(prog="python -m pqbench.cache", description=__doc__)
    parser.add_argument("what", choices=("list", "verify", "prune"))
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--max-gb", type=float, help="prune: keep at most this many GiB of stages")
    parser.add_argument("--remove", action="store_true", help="verify: remove what is damaged")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cache = Cache(args.outputs / "cache")
    if not cache.root.is_dir():
        print(f"no cache in {args.outputs}: set --outputs", file=sys.stderr)
        return 2
    if args.what == "prune":
        return _prune(cache, args.max_gb)
    return _verify(cache, args.remove) if args.what == "verify" else _list(cache)


def _list(cache: Cache) -> int:
    entries = cache.entries()
    for entry in reversed(entries):
        print(_line(entry))
    print(_total(entries))
    return 0


def _verify(cache: Cache, remove: bool) -> int:
    damaged = 0
    entries = cache.entries()
    for entry in entries:
        try:
            unseal(entry.folder)
        except (FileNotFoundError, DataError) as error:
            damaged += 1
            print(f"damaged: {error}")
            if remove:
                cache.remove(entry.folder)
    print(f"{len(entries)} entries checked, {damaged} damaged" + (", removed" * bool(remove)))
    return 1 if damaged and not remove else 0


def _prune(cache: Cache, max_gb: float | None) -> int:
    left = cache.clean()
    before = cache.entries()
    removed = cache.evict(max_gb) if max_gb is not None else []
    freed = sum(e.size for e in removed)
    print(
        f"{len(left)} half-made and {len(removed)} of {len(before)} entries removed, "
        f"{freed / GIB:.2f} GiB"
    )
    print(_total(cache.entries()))
    return 0


def _line(entry: Entry) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    return f"{when}  {entry.size / 2**20:9.1f} MiB  {entry.kind:<7}  {entry.name}  {entry.folder}"


def _total(entries: Sequence[Entry]) -> str:
    return " ".join(
        [
            f"{len(entries)} entries, {sum(e.size for e in entries) / GIB:.2f} GiB",
            *_by_kind(entries),
        ]
    )


def _by_kind(entries: Sequence[Entry]) -> Iterator[str]:
    for kind in KINDS:
        size = sum(e.size for e in entries if e.kind == kind)
        yield f"({kind} {size / GIB:.2f})"


if __name__ == "__main__":
    sys.exit(main())
