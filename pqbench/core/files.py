"""Writing and naming files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pqbench.core.errors import DataError

MAX_BYTES = 64 * 2**20  # of a file of records or states; the largest seen is 1 MiB
if sys.platform != "win32":
    import fcntl

_FICLONE = 0x40049409  # Linux: share the blocks of another file until one of the two is written
_PIECE = 1 << 20
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


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file, so that it can be made again and still be looked at.

    Returns:
        Its new name beside the old, ``<name>.damaged``, ``<name>.damaged-2``, ...; None where it
        cannot be renamed.
    """
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if aside.exists() or aside.is_symlink():
            continue
        try:
            path.rename(aside)
        except OSError:
            return None
        return aside
    return None


def read_limited(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file that somebody else may have made.

    Raises:
        DataError: It cannot be read, or is longer than ``limit`` bytes.
    """
    try:
        with path.open("rb") as file:
            # Python sets aside as much memory as is asked for, so no more than the file has.
            size = min(os.fstat(file.fileno()).st_size, limit) + 1
            data = file.read(size)
            if len(data) == size <= limit:  # it grew, or is no plain file
                data += file.read(limit + 1 - size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise DataError(f"cannot read {path}: longer than {limit:,} bytes")
    return data


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


def copy_file(source: Path | str, target: Path | str) -> None:
    """A copy that nobody changes by writing to the source: a reflink where there are any.

    Never a hard link: through one, a program that edits its input in place would change a result
    that is finished.
    """
    with Path(source).open("rb") as given, Path(target).open("wb") as made:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # no reflinks here
                fcntl.ioctl(made.fileno(), _FICLONE, given.fileno())
                return
        shutil.copyfileobj(given, made, _PIECE)


def copy_tree(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Copies of the files of a folder, hidden ones left out, replacing ``target``.

    Args:
        source: A folder that pqbench made; links in it are not followed.
        target: Removed first: also a folder that pqbench made.
        without: Patterns of names that are left out.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        source,
        target,
        symlinks=True,
        copy_function=copy_file,
        ignore=shutil.ignore_patterns(*without, ".*"),
    )
