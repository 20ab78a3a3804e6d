"""What of a record reached which store, written beside the record: ``tracking.json``.

The journal outlives the store's outages: what is not marked as pushed is pushed by
``python -m pqbench.sync``. One entry per store, MLflow experiment and sweep.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from pqbench.core.errors import DataError
from pqbench.core.files import file_sha256, read_limited, set_aside, write_json
from pqbench.core.record import FILE
from pqbench.core.record.reading import build

log = logging.getLogger(__name__)

JOURNAL = "tracking.json"
LOCK = ".tracking.lock"


@dataclass(frozen=True)
class Entry:
    """The record's way to one store.

    Attributes:
        uri: Tracking URI, without a password.
        experiment: Name of the MLflow experiment.
        sweep: Sweep the push belongs to.
        record_sha256: Hash of the ``record.json`` that was, or is to be, pushed.
        artifact_root: Where a new experiment would keep artifacts.
        run_id: MLflow's run; None while it is not pushed.
        experiment_id: MLflow's id of the experiment; None while it is not pushed.
        reason: Why it is not pushed; empty if it is.
    """

    uri: str
    experiment: str
    sweep: str | None
    record_sha256: str
    artifact_root: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    reason: str = ""

    def same_place(self, other: Entry) -> bool:
        """Whether both lead to the same store, experiment and sweep."""
        mine = (self.uri, self.experiment, self.sweep)
        return mine == (other.uri, other.experiment, other.sweep)


def record_sha256(folder: Path) -> str:
    """Hash of the folder's ``record.json``.

    Raises:
        DataError: There is none: a record is written before it is tracked.
    """
    try:
        return file_sha256(folder / FILE)
    except OSError as error:
        raise DataError(f"no record to track in {folder}: {error}") from error


def read(folder: Path) -> list[Entry]:
    """All entries; empty if nothing was tracked yet.

    A damaged journal is set aside with a warning: the store itself is asked again.
    """
    path = folder / JOURNAL
    if not path.exists():
        return []
    try:
        entries: list[Entry] = build(list[Entry], read_limited(path))
    except DataError as error:
        aside = set_aside(path)
        kept = f"; kept as {aside.name}" if aside else ""
        log.warning("%s is damaged%s: %s", path, kept, error)
        return []
    return entries


def mark(folder: Path, entry: Entry) -> None:
    """Add an entry, or put it in the place of the one to the same place."""
    others = [e for e in read(folder) if not e.same_place(entry)]
    write_json(folder / JOURNAL, [asdict(e) for e in (*others, entry)])


def pushed(folder: Path) -> list[Entry]:
    """Entries whose run holds the record as it is now."""
    now = record_sha256(folder)
    return [e for e in read(folder) if e.run_id is not None and e.record_sha256 == now]
