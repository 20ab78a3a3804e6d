"""The device lock: timing excludes all other heavy work of pqbench on the machine.

Whoever times holds the lock alone; compression, training and scoring share it. The lock belongs to
an open file and is given back by the kernel when its process dies, however it dies. A gate in front
keeps newcomers from sharing while someone waits to time, who would else wait for ever.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pqbench.core.errors import OutputError

log = logging.getLogger(__name__)
_ELSEWHERE = "remove it, or set XDG_RUNTIME_DIR or TMPDIR to a folder of your own"


def lock_folder() -> Path:
    """Where the lock files are: one folder per user and machine, the same for every project."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    try:
        user = str(os.getuid())
    except AttributeError:
        user = getpass.getuser()
    return base / f"pqbench-{user}"


def private(folder: Path) -> Path:
    """Make a folder that only this user can use; one that is there is checked.

    Temporary directories are everybody's: a folder or link that another user has put there would
    let him read, hold or replace what is kept in it.

    Raises:
        OutputError: It is no folder, a link, another user's, or cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        found = folder.lstat()
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error.strerror}", _ELSEWHERE) from error
    if not stat.S_ISDIR(found.st_mode):
        raise OutputError(f"{folder} is a link or a file, not a folder of this user's", _ELSEWHERE)
    if not hasattr(os, "getuid"):
        return folder
    if found.st_uid != os.getuid():
        raise OutputError(f"{folder} belongs to another user", _ELSEWHERE)
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def _open(name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT
    for more in ("O_CLOEXEC", "O_NOFOLLOW"):
        flags |= getattr(os, more, 0)
    return os.open(private(lock_folder()) / name, flags, 0o600)


@contextlib.contextmanager
def _locked(name: str, exclusive: bool, why: str) -> Iterator[None]:
    """Hold one lock file; sleeps in the kernel while others have it."""
    if sys.platform == "win32":
        from filelock import FileLock

        with FileLock(private(lock_folder()) / f"{name}.win"):
            yield
        return
    import fcntl

    descriptor = _open(name)
    try:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if why:
                log.info("    waiting: %s", why)
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _name(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "cpu"


def _why(device: str, held: str, does: str) -> str:
    """What is waited for, with the name of the device that this experiment is for.

    Args:
        device: That device.
        held: The lock that another has: the device's, or that of the CPU which feeds it.
        does: What the other does there.
    """
    where = device if held == _name(device) else f"the {held.upper()}, which feeds {device}"
    return f"another pqbench process {does} on {where}"


@contextlib.contextmanager
def timing(device: str = "cpu") -> Iterator[None]:
    """Hold the device alone, for timing; waits until all others are done.

    Timing on a GPU also holds the CPU, which feeds it. Not re-entrant: never ask for
    :func:`working` or :func:`timing` inside.

    Args:
        device: ``cpu`` or ``cuda:<index>``.
    """
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(("cpu", _name(device))):
            stack.enter_context(_locked(f"{name}.gate", True, _why(device, name, "waits to time")))
            stack.enter_context(_locked(f"{name}.lock", True, _why(device, name, "works")))
        yield


@contextlib.contextmanager
def working(device: str = "cpu") -> Iterator[None]:
    """Share the device for heavy work that is not timed; waits while someone times.

    Args:
        device: ``cpu`` or ``cuda:<index>``.
    """
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(("cpu", _name(device))):
            why = _why(device, name, "times")
            with _locked(f"{name}.gate", False, why):
                stack.enter_context(_locked(f"{name}.lock", False, why))
        yield
