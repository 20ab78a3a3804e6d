"""What a stage or a session was given must be the same when it is done: others use it as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pqbench.cache.seal import unseal
from pqbench.cache.store import Cache
from pqbench.core.artifact import RESULT
from pqbench.core.errors import DataError, PqbenchError

Looks = Mapping[Path, Mapping[str, tuple[int, int, int, int]]]


def look(folders: Iterable[Path]) -> Looks:
    """Size, times and inode of every file below some folders."""
    return {folder: _stats(folder) for folder in folders}


def assert_intact(before: Looks, who: str, cache: Cache | None, added_too: bool = True) -> None:
    """Refuse what ``who`` made of inputs that it changed; the cache lets go of them.

    Args:
        before: :func:`look` at the inputs before they were used.
        who: Whose inputs they were, for the message.
        cache: Where they may be entries of.
        added_too: A file that was put among them counts as well.

    Raises:
        PqbenchError: A file was changed, removed or added; the message names it.
    """
    for folder, then in before.items():
        now = _stats(folder)
        gone = [name for name in then if name not in now]
        added = [name for name in now if name not in then] if added_too else []
        differ = [name for name in then if name in now and now[name] != then[name]]
        if differ and not gone and _is_sealed(folder):
            differ = []  # touched, not changed
        for names, what in ((gone, "removed"), (added, "added"), (differ, "changed")):
            if names:
                if cache is not None and folder.parent == cache.stages:
                    cache.remove(folder)
                raise PqbenchError(
                    f"{who} {what} {names[0]} in its input folder {folder}",
                    hint="a step reads its input and writes to the work folder that it is given: "
                    "copy what it edits there first",
                )


def _stats(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / RESULT and "__pycache__" not in path.parts:
            s = path.stat()
            name = path.relative_to(folder).as_posix()
            found[name] = (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
    return found


def _is_sealed(folder: Path) -> bool:
    """Whether the content is what the seal says; False without a seal."""
    try:
        unseal(folder)
    except (FileNotFoundError, DataError):
        return False
    return True
