"""Writing and naming files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

_SETTLED_NS = 2_000_000_000  # a file that changed more recently may change again at the same time
_KNOWN: dict[tuple[str, int, int, int, int], str] = {}


def write_json(path: Path, value: object) -> None:
    """Write JSON aside and rename, so that a reader never sees half of it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text aside and rename: on a full disk the file stays as it was, or is not there.

    Raises:
        OSError: It cannot be written; nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(path: Path) -> str:
    """The same, read once per process while path, size, times and inode stay what they were.

    A file that was written within the last two seconds is always read: file systems keep time
    coarsely, so a second write of the same size would not show.
    """
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    known = _KNOWN.get(key)
    if known is not None:
        return known
    found = file_sha256(path)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED_NS:
        _KNOWN[key] = found
    return found
