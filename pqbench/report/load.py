"""Find records on disk."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pqbench.core.errors import DataError
from pqbench.core.record import FILE, Record
from pqbench.report.environments import environment_keys

log = logging.getLogger(__name__)

LOOKS = "looks"  # folder of a sweep for what a search only looked at
_MLFLOW_RUN = re.compile(r"[0-9a-f]{32}")


def find_records(root: Path) -> list[tuple[Record, Path]]:
    """Every readable record at or below ``root`` with its folder, in order of path.

    A broken one is skipped with a warning: it must not hide the others.

    Raises:
        DataError: ``root`` is no folder.
    """
    from pydantic_core import to_json

    if not root.is_dir():
        raise DataError(f"{root} is no folder", hint="give the folder of a run or sweep")
    found = []
    environments: dict[bytes, dict[str, Any]] = {}  # a few, shared by many records
    paths = [Path(folder, FILE) for folder, _, names in os.walk(root) if FILE in names]
    for path in sorted(paths):
        parts = path.parts
        below = parts[len(root.parts) :]
        if parts[-2:-1] == ("artifacts",) and _MLFLOW_RUN.fullmatch("".join(parts[-3:-2])):
            continue  # MLflow's copy of a record
        if below[-4:-2] == ("cache", "records"):
            continue  # the cache's copy
        if LOOKS in below[:-2]:
            continue  # a search looked at it cheaply: that is no result
        try:
            record = Record.load(path)
        except DataError as error:
            log.warning("skipped: %s", error)
            continue
        record.environment = environments.setdefault(
            to_json(record.environment), record.environment
        )
        found.append((record, path.parent))
    return found


def newest(records: list[Record]) -> list[Record]:
    """One record per experiment and environment, the newest (:attr:`Record.order`).

    Returns:
        In order of first appearance. The same experiment on two machines gives two records.
    """
    return [record for record, _ in newest_found([(record, Path()) for record in records])]


def newest_found(found: Sequence[tuple[Record, Path]]) -> list[tuple[Record, Path]]:
    """The same for records with their folders."""
    chosen: dict[tuple[str, str], tuple[Record, Path]] = {}
    places = environment_keys([record for record, _ in found])
    keys = [(record.fingerprint, place) for (record, _), place in zip(found, places, strict=True)]
    for key, (record, folder) in zip(keys, found, strict=True):
        other = chosen.get(key)
        if other is None or record.order > other[0].order:
            chosen[key] = (record, folder)
    return list(chosen.values())


def load_records(root: Path) -> list[Record]:
    """The newest record of every experiment and environment below ``root``.

    Raises:
        DataError: ``root`` is no folder.
    """
    return newest([record for record, _ in find_records(root)])
