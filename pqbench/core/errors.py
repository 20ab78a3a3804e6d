"""Every way an experiment can end other than well, each with the status that its record shows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Status(StrEnum):
    """How an experiment ended; the top-level ``status`` of its record."""

    OK = "ok"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    OOM = "oom"
    PARITY = "parity"
    CRASHED = "crashed"
    SKIPPED = "skipped"


class PqbenchError(Exception):
    """A failure with a message for the user: what is wrong, where, and what to do about it.

    Args:
        message: One line: what is wrong and where.
        hint: What to do, in one line; may be empty.

    Attributes:
        stage: Name of the stage in which it happened; None outside of one.
        log: Log file of the process in which it happened; None without one.
        original: Class of the error that a worker reported, where it is none of pqbench's.
    """

    status = Status.FAILED
    stage: str | None = None
    log: Path | None = None
    original: str | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class ConfigError(PqbenchError):
    """The configuration is invalid; found before any work."""


class DataError(PqbenchError):
    """A data set, split or image is missing or unreadable."""


class WeightsError(PqbenchError):
    """Weights are missing, unreadable, or do not fit the model."""


class UnsupportedError(PqbenchError):
    """This combination of step, model and backend does not exist, for a stated reason."""

    status = Status.UNSUPPORTED


class UnavailableError(PqbenchError):
    """The backend exists but not on this machine: a library, driver or device is missing."""

    status = Status.UNAVAILABLE


class StageTimeout(PqbenchError):
    """A stage ran past its time limit and was stopped."""

    status = Status.TIMEOUT


class OutOfMemoryFailure(PqbenchError):
    """A stage ran out of memory."""

    status = Status.OOM


class ParityError(PqbenchError):
    """An exported or converted model does not compute what its source computes."""

    status = Status.PARITY


class PlacementError(PqbenchError):
    """A session ran on another device or at another precision than asked."""


class SkippedError(PqbenchError):
    """The experiment was not run, because what it needs has failed."""

    status = Status.SKIPPED


class OutputError(PqbenchError):
    """Results cannot be written: the disk is full, or the folder may not be written to."""


class WorkerCrash(PqbenchError):
    """A worker process died by a signal."""

    status = Status.CRASHED


ERRORS: dict[str, type[PqbenchError]] = {
    cls.__name__: cls
    for cls in (
        PqbenchError,
        ConfigError,
        DataError,
        WeightsError,
        UnsupportedError,
        UnavailableError,
        StageTimeout,
        OutOfMemoryFailure,
        ParityError,
        PlacementError,
        SkippedError,
        OutputError,
        WorkerCrash,
    )
}
