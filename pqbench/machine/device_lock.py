"""The device lock: timing excludes all other heavy work of pqbench on the machine.

Whoever times holds the lock alone; compression, training and scoring share it. The lock belongs to
an open file and is given back by the kernel when its process dies, however it dies. A gate in front
keeps newcomers from sharing while someone waits to time, who would else wait for ever.

Who works may hand its share to a process that it starts, as that open file (:func:`join`). Should
the child time something, it lays the share down meanwhile: it would else wait for its own parent.
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
from collections.abc import Iterator, Mapping
from pathlib import Path

from pqbench.core.errors import OutputError

log = logging.getLogger(__name__)
_ELSEWHERE = "remove it, or set XDG_RUNTIME_DIR or TMPDIR to a folder of your own"
_joined: dict[str, int] = {}  # the shares of the process that started this one: open files


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
def _locked(name: str, exclusive: bool, why: str) -> Iterator[int]:
    """Hold one lock file, whose descriptor is given; sleeps in the kernel while others have it."""
    if sys.platform == "win32":
        from filelock import FileLock

        with FileLock(private(lock_folder()) / f"{name}.win"):
            yield -1
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
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also for a process that still has the file
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

    Timing on a GPU also holds the CPU, which feeds it. Shares that this process was handed
    (:func:`join`) are laid down meanwhile. Not re-entrant: never ask for :func:`working` or
    :func:`timing` inside, nor for timing inside working of the same process.

    Args:
        device: ``cpu`` or ``cuda:<index>``.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_laid_down())
        for name in dict.fromkeys(("cpu", _name(device))):
            stack.enter_context(_locked(f"{name}.gate", True, _why(device, name, "waits to time")))
            stack.enter_context(_locked(f"{name}.lock", True, _why(device, name, "works")))
        yield


@contextlib.contextmanager
def working(device: str = "cpu") -> Iterator[Mapping[str, int]]:
    """Share the device for heavy work that is not timed; waits while someone times.

    What this process was handed (:func:`join`) it shares already.

    Args:
        device: ``cpu`` or ``cuda:<index>``.

    Yields:
        The shares, for :func:`join` in a process that is started: descriptors of open files.
    """
    with contextlib.ExitStack() as stack:
        shares: dict[str, int] = {}
        for name in dict.fromkeys(("cpu", _name(device))):
            if name in _joined:
                shares[name] = _joined[name]
                continue
            why = _why(device, name, "times")
            with _locked(f"{name}.gate", False, why):
                shares[name] = stack.enter_context(_locked(f"{name}.lock", False, why))
        yield shares


def join(shares: Mapping[str, int]) -> None:
    """Take part in the shares of the process that started this one, for as long as it has them.

    Args:
        shares: What :func:`working` gave there, with this process's descriptors of the open files.
    """
    for descriptor in shares.values():
        os.set_inheritable(descriptor, False)
    _joined.update(shares)


@contextlib.contextmanager
def _laid_down() -> Iterator[None]:
    """Give up the shares that this process was handed; takes them up again afterwards."""
    if not _joined:
        yield
        return
    import fcntl

    for descriptor in _joined.values():
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    try:
        yield
    finally:
        for name, descriptor in _joined.items():
            with _locked(f"{name}.gate", False, _why(name, name, "times")):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
