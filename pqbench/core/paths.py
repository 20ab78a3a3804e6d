"""Names that can be written, and paths of records.

Paths that come from a record are relative, stay inside its folder, and lead over no links. A
record may be a stranger's: what it names is moved, copied, uploaded and replaced, so a path is
checked when the record is read and, on the disk as it then is, whenever it is used.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.terminal import printable


def check_text(text: str, what: str = "", error: type[PqbenchError] = DataError) -> None:
    """Refuse a name whose bytes are not UTF-8: records, tables and MLflow hold texts.

    Args:
        text: A path, a name or an argument, as Python hands it out: lone surrogates stand for
            bytes that are no text.
        what: What it is, for the message.
        error: Class of what is raised.

    Raises:
        DataError: Or ``error``: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise error(
            f"{what} {printable(text)}".strip() + ": the name is not UTF-8",
            hint="rename the file or folder; `convmv -f latin1 -t utf-8 -r --notest FOLDER` "
            "renames all below one",
        ) from None


def check_relative(text: str, what: str) -> None:
    """Refuse a path that could lead out of the folder it is relative to.

    Args:
        text: The path, with forward slashes.
        what: Where it stands, for the message: ``files.model``.

    Raises:
        DataError: It is absolute, empty, the folder itself, has ``..``, a drive or a backslash.
    """
    parts = PurePosixPath(text).parts
    wrong = (
        not parts
        or text.startswith("/")
        or ".." in parts
        or any(character in text for character in "\\\0")
        or (len(parts[0]) == 2 and parts[0].endswith(":"))
    )
    if wrong:
        raise DataError(f"{what} is {text!r}: not a path inside the record's folder")


def inside(folder: Path, text: str) -> Path:
    """The file or folder that a relative path names, which need not exist.

    Raises:
        DataError: The path is not relative, or a part of it is a link.
    """
    check_relative(text, "a path")
    path = folder
    for part in PurePosixPath(text).parts:
        path /= part
        if path.is_symlink():
            raise DataError(f"{path} is a link, which a record must not name")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is not inside {folder}")
    return path


def files_inside(folder: Path, text: str) -> list[Path]:
    """Every file at or below a relative path, sorted; none if it does not exist.

    Raises:
        DataError: As :func:`inside`, or there is a link, a pipe or a device below it.
    """
    path = inside(folder, text)
    if not path.is_dir():
        return [_plain(path)] if path.exists() else []
    found = []
    for where, folders, names in os.walk(path):
        for name in folders:
            if Path(where, name).is_symlink():
                raise DataError(f"{Path(where, name)} is a link, which a record must not name")
        found += [_plain(Path(where, name)) for name in names]
    return sorted(found)


def _plain(path: Path) -> Path:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DataError(f"{path} is a link or no plain file, which a record must not name")
    return path
