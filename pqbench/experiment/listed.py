"""A data set's listing, made once in a process and looked at again before it is trusted.

Every experiment of a sweep asks for the same listing, of a million files for ImageNet. Where it
follows from the names of files alone (``Dataset.by_names``) it is kept, with the state of every
folder that it was made from: what is added, removed or renamed shows there. The listed files
themselves are looked at again before an experiment is made, and for one that is found once the last
look is 20 times as old as the time that it took.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pqbench.core.dataset import DataIndex, Dataset
from pqbench.core.instantiate import make

_TRUSTED = 20.0
_SETTLED_NS = 2_000_000_000  # a folder that changed more recently may change again at the same time
State = list[tuple[int, int, int]]


@dataclass
class _Known:
    """One listing: its hash, what it was made from, and when its files were last looked at."""

    index: DataIndex
    hash: str
    folders: list[str]
    state: State
    looked: float
    took: float


@dataclass
class Listings:
    """The listings of one process.

    Attributes:
        clock: Seconds; replaced in tests.
        listed: How often a data set was listed.
        looked: How often the files of a kept listing were looked at.
    """

    clock: Callable[[], float] = time.monotonic
    listed: int = 0
    looked: int = 0
    _known: dict[str, _Known] = field(default_factory=dict)

    def get(
        self, source: Mapping[str, Any], files: Mapping[str, str], fresh: bool = False
    ) -> tuple[DataIndex, str]:
        """The index of a data set and its ``listing_hash()``.

        Args:
            source: Its configuration node.
            files: SHA-256 of the files and code that the configuration names.
            fresh: Look at every file, however short ago that was done.

        Raises:
            DataError: The data is missing or not as it should be.
        """
        key = json.dumps([dict(source), dict(files)], sort_keys=True, default=str)
        known = self._known.get(key)
        if known is not None and self._holds(known, fresh):
            return known.index, known.hash
        self._known.pop(key, None)
        self.listed += 1
        dataset = make(source, "dataset.source", Dataset)
        index = dataset.index()
        began = self.clock()
        found = index.listing_hash()
        now = self.clock()
        if dataset.is_by_names():
            folders = _folders(index)
            state = _state(folders)
            settled = time.time_ns() - _SETTLED_NS
            if state is not None and all(changed < settled for changed, _, _ in state):
                self._known[key] = _Known(index, found, folders, state, now, now - began)
        return index, found

    def _holds(self, known: _Known, fresh: bool) -> bool:
        """Whether a listing is what it would be if it were made now."""
        if _state(known.folders) != known.state:
            return False
        if not fresh and self.clock() - known.looked < _TRUSTED * known.took:
            return True
        self.looked += 1
        began = self.clock()
        if known.index.listing_hash() != known.hash:
            return False
        known.looked = self.clock()
        known.took = known.looked - began
        return True


def _folders(index: DataIndex) -> list[str]:
    """Folders of all listed files, up to the one above that which holds all."""
    paths = (str(path) for split in index.splits.values() for path in split.files)
    found = {os.path.dirname(os.path.abspath(path)) for path in paths}  # noqa: PTH100, PTH120
    top = os.path.dirname(os.path.commonpath(found)) if found else ""  # noqa: PTH120
    for folder in list(found):
        while folder not in (top, os.sep):
            folder = os.path.dirname(folder)  # noqa: PTH120
            found.add(folder)
    return sorted(found)


def _state(folders: list[str]) -> State | None:
    """When each folder changed, and which it is; None if one is not there."""
    try:
        stats = [os.stat(folder) for folder in folders]  # noqa: PTH116
    except OSError:
        return None
    return [(stat.st_mtime_ns, stat.st_ino, stat.st_dev) for stat in stats]


LISTINGS = Listings()
