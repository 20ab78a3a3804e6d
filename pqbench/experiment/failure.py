"""The record of an experiment that has no result."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pqbench.core import record as rec
from pqbench.core.errors import OutputError, PqbenchError
from pqbench.core.secrets import mask_text
from pqbench.machine.describe import describe
from pqbench.workers.child import log_tail

_LOG = "experiment.log"


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def unexpected(error: Exception, logs: Path) -> PqbenchError:
    """An error that no stage named, with its traceback in a log file.

    Args:
        error: What was raised in this process.
        logs: Folder of the experiment's logs.

    Raises:
        OSError: The log cannot be written either.
    """
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / _LOG
    with path.open("a", encoding="utf-8") as file:
        file.writelines(traceback.format_exception(error))
    first = (str(error).strip().splitlines() or [""])[0][:500]
    if isinstance(error, OSError) and error.errno:
        what = f"{error.filename}: " if error.filename else ""
        failure: PqbenchError = OutputError(f"{what}{os.strerror(error.errno)}")
    else:
        failure = PqbenchError(
            f"{type(error).__name__}: {first}", hint=f"the traceback is in {path}"
        )
        failure.original = type(error).__name__  # type: ignore[attr-defined]
    failure.log = path  # type: ignore[attr-defined]
    return failure


def failure_record(
    error: PqbenchError,
    folder: Path,
    *,
    experiment: rec.Experiment,
    fingerprint: str,
    seconds: float,
    command: str,
    config: Mapping[str, Any],
    threads: int,
    stages: list[rec.Stage],
) -> rec.Record:
    """The record of a failure: status, class, message, what to do, and the end of the log.

    Args:
        error: What ended the experiment; its attributes ``stage`` and ``log`` say where, if it was
            in a stage.
        folder: Where the record goes.
        experiment: What ran.
        fingerprint: Hash of the configuration.
        seconds: Wall time until it failed, in s.
        command: Command line that reproduces it.
        config: Resolved configuration.
        threads: Threads in use.
        stages: Stages that were done.
    """
    stage = getattr(error, "stage", "plan" if not stages else "measure")
    path: Path | None = getattr(error, "log", None)
    inside = path is not None and path.is_relative_to(folder)
    return rec.Record(
        status=error.status,
        experiment=experiment,
        fingerprint=fingerprint,
        baseline=None,
        created=now(),
        seconds=seconds,
        command=command,
        config=dict(config),
        environment=describe(threads),
        stages=stages,
        error=rec.ErrorInfo(
            stage=stage,
            type=getattr(error, "original", type(error).__name__),
            message=mask_text(error.message),
            hint=mask_text(error.hint),
            log=str(path.relative_to(folder)) if path and inside else None,
            log_tail=mask_text(log_tail(path)) if path else "",
        ),
    )
