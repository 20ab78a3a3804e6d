"""Finished experiments: how they are named, kept and found again.

An experiment is found by its fingerprint (the resolved configuration) and its identity (data, the
content of every file that a setting names, code, libraries, processor). It is looked for where its
record goes, then among the records that the cache keeps, then in the tracking store. What is kept
is sealed, so half a copy or a damaged file is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.cache import Cache
from pqbench.cache.content import named_files
from pqbench.cache.keys import code_hash, library_versions
from pqbench.cache.users_code import users_code
from pqbench.core import record as rec
from pqbench.core.errors import DataError
from pqbench.core.files import copy_file, copy_tree, set_aside
from pqbench.core.paths import files_inside, inside
from pqbench.experiment.config import IGNORED_BY_FINGERPRINT
from pqbench.machine.cpu import cpu_model

log = logging.getLogger("pqbench")


def sources(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file and of every module of the user's that the configuration names.

    Where results go and how they are kept does not enter.

    Raises:
        DataError: A file that is named cannot be read.
    """
    inputs = {k: v for k, v in config.items() if k not in IGNORED_BY_FINGERPRINT}
    code = {f"code:{name}": sha256 for name, sha256 in users_code(inputs).items()}
    return {**named_files(inputs), **code}


def shown_sources(found: Mapping[str, str], shown: Mapping[str, Any]) -> dict[str, str]:
    """:func:`sources` as a record holds them.

    A path is written as the record's configuration writes it; one that is not in there (it comes
    from the environment, say, or another file refers to it) by the file's own name.
    """
    written = json.dumps(shown)
    return {
        name if name.startswith("code:") or json.dumps(name) in written else Path(name).name: value
        for name, value in found.items()
    }


def identity(sources: Mapping[str, str], threads: int, listing: str | None) -> str:
    """What a result depends on beside its configuration: files, data, code, libraries, processor.

    Args:
        sources: :func:`sources` of the configuration.
        threads: Threads in use.
        listing: ``DataIndex.listing_hash()`` of the data; None where it was not got as far.

    Returns:
        16 hex digits.
    """
    value = [
        listing,
        code_hash(),
        dict(sources),
        library_versions(),
        cpu_model(),
        threads,
    ]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class FinishedRecords:
    """Finds and keeps the record of one experiment.

    Args:
        cache: The cache, or None: nothing is kept beyond the record's own folder.
        folder: Where the record and the files beside it go.
        fingerprint: Hash of the configuration.
    """

    def __init__(self, cache: Cache | None, folder: Path, fingerprint: str) -> None:
        self.cache = cache
        self.folder = folder
        self.fingerprint = fingerprint

    def here(self) -> rec.Record | None:
        """The record in the experiment's own folder, if it is one of this configuration."""
        if not (self.folder / rec.FILE).is_file():
            return None
        try:
            record = rec.Record.load(self.folder)
        except DataError as error:
            aside = set_aside(self.folder / rec.FILE)
            kept = f" (kept as {aside.name})" if aside else ""
            log.warning("  an unusable record is made again%s: %s", kept, error)
            return None
        if record.fingerprint != self.fingerprint:
            return None
        if record.altered:
            log.warning("  %s was altered by hand and is made again", self.folder / rec.FILE)
            return None
        try:
            missing = [t for t in record.files.values() if not inside(self.folder, t).exists()]
        except DataError as error:
            log.warning("  an unusable record is made again: %s", error)
            return None
        if missing:
            log.warning("  %s misses files and is made again", self.folder / rec.FILE)
            return None
        changed = record.altered_files(self.folder)
        if changed:
            log.warning("  %s is made again: %s", self.folder / rec.FILE, changed[0])
            return None
        return record

    def kept(self, identity: str) -> rec.Record | None:
        """The record that the cache keeps, copied into the experiment's folder."""
        if self.cache is None:
            return None
        store = self._store(self.cache, identity)
        if self.cache.find(store) is None:
            return None
        try:
            record = rec.Record.load(store)
            copy_record(record, store, self.folder)
        except DataError as error:
            log.warning("  a stored record is unusable: %s", error)
            return None
        return record

    def keep(self, record: rec.Record) -> None:
        """Put a record whose files are in the experiment's folder into the cache.

        A cache that cannot be written costs a later sweep its time, not this one its result.
        """
        if self.cache is None:
            return
        store = self._store(self.cache, record.identity)
        experiment = record.experiment
        name = f"{experiment.model} · {experiment.recipe_name} · {experiment.backend}"
        try:
            with self.cache.lock(store.name):
                aside = self.cache.aside(store)
                copy_record(record, self.folder, aside)
                self.cache.keep(aside, store, {"name": name})
        except OSError as error:
            log.warning("  the record could not be kept in the cache: %s", error)

    @contextlib.contextmanager
    def making(self, identity: str) -> Iterator[None]:
        """Held by the one process that makes this record; others wait here, then find it.

        A cache that cannot be written has no locks: then nobody waits.
        """
        lock = None
        if self.cache is not None:
            with contextlib.suppress(OSError):
                lock = self.cache.lock(f"{self._store(self.cache, identity).name}.making")
                lock.acquire()
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _store(self, cache: Cache, identity: str) -> Path:
        return cache.records / f"{self.fingerprint}-{identity}"


def copy_record(record: rec.Record, source: Path, target: Path) -> None:
    """Copy a record with its files; the record last, so that half a copy is none.

    Raises:
        DataError: The record names a link, or what leads out of its folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for text in record.files.values():
        files_inside(source, text)
        given, wanted = inside(source, text), inside(target, text)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        if given.is_dir():
            copy_tree(given, wanted)
        else:
            copy_file(given, wanted)
    record.save(target)
