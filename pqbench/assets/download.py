"""Download one file: resumable, checked by its hash, one process at a time, never half trusted."""

from __future__ import annotations

import hashlib
import http.client
import logging
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pqbench.core.errors import PqbenchError
from pqbench.core.files import file_sha256

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
ANSWER_DEADLINE_S = 10.0
CHUNK_BYTES = 1 << 18
SLOWEST_BYTES_PER_S = 1024  # over a window; slower is given up
WINDOW_S = 30.0
_DIGITS = 15
LARGEST_BYTES = 1 << 38  # of a file whose size nobody has told


class _Useless(OSError):
    """What arrives cannot become the file; going on would not end."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        url: Where it is.
        sha256: Its SHA-256 as hex, or the first digits of it (torchvision's names hold eight).
        size: Its size in bytes, where known.
        md5: Its MD5, for files of which no SHA-256 is published; it finds damage, not malice.
    """

    url: str
    sha256: str
    size: int | None = None
    md5: str | None = None

    def __post_init__(self) -> None:
        if not self.sha256 and not self.md5 and self.url:
            raise ValueError(f"{self.url}: a download needs a checksum")

    def mismatch(self, file: Path) -> str:
        """What is wrong with a file's checksum; empty if it is the published one."""
        if self.sha256:
            digest = file_sha256(file)
            good = digest.startswith(self.sha256)
            return "" if good else f"SHA-256 {digest}, expected {self.sha256}"
        if self.md5 is None:
            return ""
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "md5").hexdigest()
        return "" if digest == self.md5 else f"MD5 {digest}, expected {self.md5}"


def fetch(remote: Remote, target: Path, error: type[PqbenchError], hint: str) -> Path:
    """Bring ``remote`` to ``target``; a file that is there already is only checked.

    Data arrive in ``<target>.part``, which survives a broken connection and is continued by the
    next attempt; only a complete file with the right checksum gets the name ``target``. Without a
    network the call fails within about ten seconds.

    Args:
        remote: What to fetch.
        target: Where to put it; the folder is created.
        error: Class of the error to raise.
        hint: What the user can do where the download fails.

    Raises:
        PqbenchError: Of class ``error``: no connection, a broken transfer, a wrong checksum, or a
            folder that cannot be written.
    """
    if target.is_file():
        return verify(remote, target, error)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as cause:
        raise error(f"cannot write to {target.parent}: {cause}", hint) from cause
    try:
        if not target.is_file():  # else another process brought it while this one waited
            _download(remote, target, error, hint)
    finally:
        lock.release()
    return target


def verify(remote: Remote, file: Path, error: type[PqbenchError]) -> Path:
    """Return ``file`` if its checksum is the published one.

    Raises:
        PqbenchError: Of class ``error``: it is another file, or a damaged one.
    """
    if wrong := remote.mismatch(file):
        raise error(
            f"{file} is damaged or another file: {wrong}",
            hint="delete it and run again",
        )
    return file


def _download(remote: Remote, target: Path, error: type[PqbenchError], hint: str) -> None:
    part = target.with_name(f"{target.name}.part")
    name = target.name
    furthest = part.stat().st_size if part.exists() else 0
    while True:
        try:
            _receive(remote, part)
            break
        except (OSError, http.client.HTTPException) as cause:
            if isinstance(cause, urllib.error.HTTPError) and cause.code == 416 and part.exists():
                part.unlink()  # longer than the published file: begin anew
                continue
            here = part.stat().st_size if part.exists() else 0
            if here > furthest and not isinstance(cause, _Useless):  # it moved: go on from here
                log.warning("%s: %s; resuming at byte %d", name, cause, here)
                furthest = here
                continue
            refused = isinstance(cause, urllib.error.HTTPError)  # its text has the status code
            reason = cause if refused else getattr(cause, "reason", cause)
            kept = f" ({here:,} bytes kept: the next run resumes)" if here else ""
            raise error(f"cannot download {remote.url}: {reason}{kept}", hint) from cause
    if wrong := remote.mismatch(part):
        part.unlink()
        raise error(f"{remote.url} gave a file with {wrong}; it was deleted", hint)
    part.replace(target)


def _receive(remote: Remote, part: Path) -> None:
    """Append to ``part`` what is missing; an OSError says that the connection broke."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(remote.url, headers={"User-Agent": "pqbench"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with closing(_open(request)) as response:
        resumed = response.status == 206 and (response.headers["Content-Range"] or "").startswith(
            f"bytes {have}-"
        )
        if not resumed:
            have = 0
        total = _total(response.headers["Content-Length"], have, remote)
        log.info("downloading %s (%s bytes)", remote.url, total if total else "unknown")
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file.write, part.name, have, total)
    size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection closed after {size:,} of {total:,} bytes")


def _total(length: str | None, have: int, remote: Remote) -> int | None:
    """Bytes of the whole file, as far as known.

    Raises:
        _Useless: The server's figure is none, or another than the published.
    """
    if not length:
        return remote.size
    if not length.strip().isdecimal() or len(length) > _DIGITS:
        raise _Useless(f"the server says that it sends {length[:40]!r} bytes")
    total = have + int(length)
    if remote.size is not None and total != remote.size:
        raise _Useless(f"the server has {total:,} bytes, {remote.size:,} are published")
    return total


def _copy(
    response: http.client.HTTPResponse,
    write: Callable[[bytes], int],
    name: str,
    done: int,
    total: int | None,
) -> None:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn(name.removesuffix(".part")), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(name, completed=done, total=total)
        began, arrived = time.monotonic(), 0
        while chunk := response.read1(CHUNK_BYTES):
            done += len(chunk)
            if done > (LARGEST_BYTES if total is None else total):
                raise _Useless(f"more than the {total or LARGEST_BYTES:,} bytes of the file came")
            write(chunk)
            progress.advance(task, len(chunk))
            arrived += len(chunk)
            now = time.monotonic()
            if now - began >= WINDOW_S:
                if arrived < SLOWEST_BYTES_PER_S * (now - began):
                    raise _Useless(f"only {arrived:,} bytes in {now - began:.0f} s")
                began, arrived = now, 0


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Open a URL within ``ANSWER_DEADLINE_S``, name resolution and all addresses included.

    ``urlopen``'s own time-out holds for each address of a host anew and not for its name, so it
    waits in a thread of its own.
    """
    future: Future[http.client.HTTPResponse] = Future()

    def work() -> None:
        try:
            future.set_result(urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S))
        except Exception as cause:  # handed to the caller by future.result()
            future.set_exception(cause)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout=ANSWER_DEADLINE_S)
    except TimeoutError as cause:
        raise TimeoutError(f"no answer within {ANSWER_DEADLINE_S:g} s") from cause
