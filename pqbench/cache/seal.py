"""A folder with a seal: ``result.json`` holds the SHA-256 of every file in it and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pqbench.core.artifact import RESULT
from pqbench.core.errors import DataError
from pqbench.core.files import content_sha256, file_sha256, write_json


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

    A process reads each file once, and again where its size, times or inode have changed: a split
    of many gigabytes is found by every experiment of a sweep.

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
            found = content_sha256(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name}: {error.strerror}") from error
        if found != expected:
            raise DataError(f"{folder / name} is not what was written")
    return content


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
