"""One experiment: what ran, what came out, why not."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pqbench.core.errors import DataError, Status
from pqbench.core.files import file_sha256, read_limited, write_json
from pqbench.core.paths import check_relative, files_inside, inside
from pqbench.core.record import reading
from pqbench.core.record.accuracy import Accuracy
from pqbench.core.record.fields import Part, doc
from pqbench.core.record.history import RESEAL, SCHEMA_VERSION, migrate
from pqbench.core.record.meaning import check
from pqbench.core.record.placement import PlacementInfo, Profile
from pqbench.core.record.resources import Energy, Memory, Size
from pqbench.core.record.timing import Cold, Latency, Speedup, Stage

FILE = "record.json"
_GROWING = ("log", "logs")  # names in ``files`` of what a later stage may add to
_NOT_FILES = (FILE, "tracking.json", "baseline", "report", "work")
_STATUSES = [str(status) for status in Status]


@dataclass
class ErrorInfo(Part):
    """Why an experiment has no result."""

    stage: str = doc("Stage in which it ended, or 'plan' before any work")
    type: str = doc("Class of the error")
    message: str = doc("What was wrong and where")
    hint: str = doc("What to do", default="")
    log: str | None = doc("Log file of the stage, relative to the record", default=None)
    log_tail: str = doc("The last lines of that log", default="")


@dataclass
class Experiment(Part):
    """Model x dataset x recipe x backend."""

    model: str = doc("Name of the model")
    task: str = doc("classification, ...")
    dataset: str = doc("Name of the data set")
    split: str = doc("Split that is scored")
    recipe: list[str] = doc("Steps in order; empty for a baseline")
    backend: str = doc("Name of the backend")
    weights: str | None = doc("bundled, pretrained, file, scratch or none", default=None)

    @property
    def recipe_name(self) -> str:
        """The recipe as one word: ``none`` or ``prune+finetune+ort_int8``."""
        return "+".join(self.recipe) or "none"


@dataclass
class Record(Part):
    """Everything about one experiment; readable alone."""

    status: str = doc(
        "ok, or failed unsupported unavailable timeout oom parity crashed skipped",
        allowed={
            "pattern": f"^({'|'.join(_STATUSES)})$",
            "json_schema_extra": {"enum": _STATUSES},
        },
    )
    experiment: Experiment = doc("What ran")
    fingerprint: str = doc("Hash that names the experiment: its resolved configuration")
    baseline: str | None = doc("Fingerprint of the baseline; null if this is one")
    created: str = doc("When it ended, ISO 8601, UTC")
    seconds: float = doc("Wall time of the experiment without its baseline, in s")
    command: str = doc("Command line that reproduces it")
    config: dict[str, Any] = doc("Resolved configuration")
    environment: dict[str, Any] = doc("Machine, libraries, threads, git")
    schema_version: int = doc("Version of this layout", default=SCHEMA_VERSION)
    error: ErrorInfo | None = doc("Null if status is ok", default=None)
    stages: list[Stage] = doc("Stages in order", default_factory=list)
    lineage: list[dict[str, Any]] = doc(
        "Actions from source to deployed model", default_factory=list
    )
    latency: list[Latency] = doc("By batch size", default_factory=list)
    speedup: list[Speedup] = doc("By batch size; empty for a baseline", default_factory=list)
    cold: Cold = doc("Cold times", default_factory=Cold)
    memory: Memory = doc("Memory", default_factory=Memory)
    energy: Energy = doc("Energy", default_factory=Energy)
    size: Size = doc("Size and work", default_factory=Size)
    accuracy: Accuracy | None = doc("Null with a reason where there is none", default=None)
    accuracy_clean: Accuracy | None = doc(
        "On images that no pretraining saw, where the scored split holds some that it did",
        default=None,
    )
    parity: list[dict[str, Any]] = doc("One entry per conversion", default_factory=list)
    placement: PlacementInfo | None = doc("Where it ran", default=None)
    profile: Profile | None = doc("Where the time goes", default=None)
    reasons: dict[str, str] = doc("Why a field is null, by its path", default_factory=dict)
    notes: list[str] = doc("What a reader must know: leaks, warnings", default_factory=list)
    files: dict[str, str] = doc("Files beside the record, relative to it", default_factory=dict)
    identity: str = doc(
        "Hash of data, code, libraries and processor: with the fingerprint, what a finished "
        "experiment is found by",
        default="",
    )
    sources: dict[str, str] = doc(
        "SHA-256 of every file that the configuration names, by its path there, and (code:) of "
        "every module of the user's",
        default_factory=dict,
    )
    hashes: dict[str, str] = doc(
        "SHA-256 of every file that files names, logs left out, by its path: an edit shows",
        default_factory=dict,
    )
    sequence: int = doc(
        "Grows from record to record of one outputs folder, even where the clock is set back: of "
        "several records of one experiment the highest counts; 0: from before there was one",
        default=0,
    )
    digest: str | None = doc(
        "SHA-256 of all other fields, made when saved: an edit by hand shows", default=None
    )

    @property
    def order(self) -> int:
        """What says which of several records of one experiment is the newest: ``sequence``.

        A record without one counts by the time when it ended, in ms since 1970, which is what a
        sequence is where no clock was set back.
        """
        return self.sequence or int(datetime.fromisoformat(self.created).timestamp() * 1000)

    @property
    def altered(self) -> bool:
        """Whether a field was changed after the record was saved; False where it cannot tell."""
        return self.digest is not None and self.digest != self.seal()

    def seal(self) -> str:
        """SHA-256 of all fields but ``digest`` that differ from their default, 64 hex digits."""
        return reading.fingerprint_of(self, without="digest")

    def path(self, folder: Path, name: str) -> Path | None:
        """The file or folder that ``files`` names so, below the record's folder.

        Returns:
            None if ``files`` has no such name; the path need not exist.

        Raises:
            DataError: It leads out of the folder or over a link.
        """
        return inside(folder, self.files[name]) if name in self.files else None

    def hash_files(self, folder: Path) -> None:
        """Take the hashes of the files beside the record, once they are complete.

        Raises:
            DataError: A file is missing, or it is a link.
        """
        for name, text in self.files.items():
            if not inside(folder, text).exists():
                raise DataError(f"{folder / text} is missing: the record names it as its {name}")
        self.hashes = self._hashes(folder)

    def altered_files(self, folder: Path) -> list[str]:
        """What shows that the files beside the record are not those that were measured.

        Returns:
            One line per file that is missing, was changed or came later; empty for a record of
            an earlier version, which has no hashes.
        """
        if not self.hashes:
            return []
        try:
            now = self._hashes(folder)
        except DataError as error:
            return [str(error)]
        return [
            f"{name} {'is missing' if name not in now else 'was changed'}"
            for name, sha256 in self.hashes.items()
            if now.get(name) != sha256
        ] + [f"{name} was added" for name in now if name not in self.hashes]

    def _hashes(self, folder: Path) -> dict[str, str]:
        names = [text for name, text in self.files.items() if name not in _GROWING]
        return {
            path.relative_to(folder).as_posix(): file_sha256(path)
            for text in sorted(names)
            for path in files_inside(folder, text)
        }

    @property
    def ok(self) -> bool:
        """Whether the experiment has a result."""
        return self.status == Status.OK

    @property
    def is_baseline(self) -> bool:
        """Whether the recipe is empty."""
        return not self.experiment.recipe

    def latency_at(self, batch_size: int) -> Latency | None:
        """Latency at one batch size, if measured."""
        return next((x for x in self.latency if x.batch_size == batch_size), None)

    def speedup_at(self, batch_size: int) -> Speedup | None:
        """Speedup at one batch size, if measured."""
        return next((x for x in self.speedup if x.batch_size == batch_size), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return dataclasses.asdict(self)

    def save(self, folder: Path) -> Path:
        """Write ``record.json``, with its digest, aside and rename.

        Raises:
            DataError: A value has another type than its field, or is NaN: nothing is written.
        """
        self.digest = self.seal()
        path, value = folder / FILE, self.to_dict()
        try:
            reading.checked_json(value, Record)
        except DataError as error:
            raise DataError(f"cannot write {path}: {error}") from error
        write_json(path, value)
        return path

    @classmethod
    def from_dict(cls, value: Any) -> Record:
        """Rebuild from :meth:`to_dict`.

        Raises:
            DataError: A newer schema version, a field is missing, unknown or of another type, or a
                path leads out of the record's folder.
        """
        try:
            return cls.from_json(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(f"not a record: {error}") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Rebuild from the text of ``record.json``, of this or an earlier schema version.

        Raises:
            DataError: As :meth:`from_dict`, or it is no JSON.
        """
        value = reading.values_of(text)
        if value.get("schema_version") == SCHEMA_VERSION:
            record = reading.build(cls, text)._checked()
        else:
            record = reading.build(cls, json.dumps(migrate(value)))._checked()
        check(record)
        if record.digest == RESEAL:
            record.digest = record.seal()
        return record

    def _checked(self) -> Record:
        """The record, if every path in it stays inside its folder."""
        for name, text in self.files.items():
            check_relative(text, f"not a record: files.{name}")
            first = PurePosixPath(text).parts[0]
            if first in _NOT_FILES or first.startswith("."):
                raise DataError(f"not a record: files.{name} is {text!r}, which is no result")
        if self.error is not None and self.error.log is not None:
            check_relative(self.error.log, "not a record: error.log")
        return self

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read ``record.json``, given it or its folder.

        Raises:
            DataError: The file is missing, truncated or no record.
        """
        path = path / FILE if path.is_dir() else path
        try:
            return cls.from_json(read_limited(path))
        except DataError as error:
            raise DataError(f"cannot read {path}: {error}") from error


def written_version(path: Path) -> int:
    """Version of the format in which a record lies on disk, given it or its folder.

    Raises:
        DataError: It cannot be read.
    """
    path = path / FILE if path.is_dir() else path
    try:
        version = reading.values_of(path.read_bytes()).get("schema_version")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return version if isinstance(version, int) else SCHEMA_VERSION


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of ``record.json``, made from the classes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **reading.schema_of(Record),
        "title": f"pqbench record, version {SCHEMA_VERSION}",
    }
