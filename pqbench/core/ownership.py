"""pqbench deletes and replaces only what it can prove it made.

Every folder that results go to holds a marker: the names that pqbench made there, noted before they
are made, and the content of its files once they are complete. A file of another origin under one of
these names is refused before any work; one that was changed, or put among ours, is set aside under
another name and never deleted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.core.errors import ConfigError
from pqbench.core.files import content_sha256, write_json

log = logging.getLogger("pqbench")

MARKER = ".pqbench.json"
_MADE_BY = "pqbench"
# What grows or is written again by others of ours (a log, a push), or has a marker of its own.
_OPEN = {
    *("logs", "work", "baseline", "report", "tracking.json", ".fetched", ".hydra", "pqbench.log"),
    *(".tracking.lock", ".run.lock", ".sweep.lock", "sweep.json", "progress.jsonl"),
    *("multirun.yaml",),
}


def claim(folder: Path, names: Iterable[str], hint: str) -> None:
    """Prove that these names in a folder are free or pqbench's, and note them as its own.

    Call before the first of them is written. What was changed since :func:`note` is set aside.

    Args:
        folder: Made if missing.
        names: Of the files and folders in it that may be written, replaced or deleted.
        hint: What a user does who has a file there.

    Raises:
        ConfigError: One of them is there and pqbench did not make it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = _read(folder)
    wanted = list(names)
    ours = set(marker.get("names", ()))
    for name in wanted:
        if name not in ours and os.path.lexists(folder / name):
            raise ConfigError(
                f"{folder / name} is there already and was not made by pqbench, which would "
                "replace it",
                hint=hint,
            )
    if not marker.get("working", True):
        for name in wanted:
            if name not in _OPEN and _is_foreign(folder, name, marker.get("files", {})):
                _set_aside(folder / name)
    write_json(
        folder / MARKER,
        {"made_by": _MADE_BY, "names": sorted(ours | set(wanted)), "working": True},
    )


def note(folder: Path) -> None:
    """Note the content of all that was made in a folder, once it is complete.

    Raises:
        OSError: The folder cannot be read or written.
    """
    marker = _read(folder)
    names = list(marker.get("names", ()))
    files = {
        path.relative_to(folder).as_posix(): _state(path)
        for name in names
        if name not in _OPEN
        for path in _files(folder / name)
    }
    write_json(
        folder / MARKER, {"made_by": _MADE_BY, "names": names, "working": False, "files": files}
    )


def is_ours(folder: Path) -> bool:
    """Whether a folder bears pqbench's marker."""
    return bool(_read(folder))


def _read(folder: Path) -> dict[str, Any]:
    """The marker; empty if there is none, or none that is whole."""
    try:
        value = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and value.get("made_by") == _MADE_BY else {}


def _is_foreign(folder: Path, name: str, files: Mapping[str, Any]) -> bool:
    """Whether anything at or below a name is not what :func:`note` saw there."""
    for path in _files(folder / name):
        then = files.get(path.relative_to(folder).as_posix())
        now = _state(path, then)
        if then is None or then["sha256"] != now["sha256"]:
            return True
    return False


def _state(path: Path, then: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Size, time and content of a file; a link's is where it leads.

    The content is not read again where size and time are those of ``then``.
    """
    if path.is_symlink():
        return {"size": 0, "mtime_ns": 0, "sha256": f"link to {path.readlink()}"}
    stat = path.stat()
    now = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if then is not None and all(then.get(k) == v for k, v in now.items()):
        return dict(then)
    return {**now, "sha256": content_sha256(path)}


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.is_symlink():
        if os.path.lexists(path):
            yield path
        return
    for where, folders, names in os.walk(path):
        yield from (Path(where, n) for n in (*folders, *names) if Path(where, n).is_symlink())
        yield from (Path(where, n) for n in names if not Path(where, n).is_symlink())


def _set_aside(path: Path) -> None:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.kept-{number}")):
        number += 1
    path.rename(aside)
    log.warning("%s was changed since pqbench wrote it: it is kept as %s", path, aside.name)
