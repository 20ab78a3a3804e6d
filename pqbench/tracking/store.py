"""Reach an MLflow store, and make it and the experiment where they are not there yet.

MLflow is a copy for looking at; ``record.json`` on disk is the result. So a store that cannot be
used now is a :class:`StoreError`, which the package turns into a warning.
"""

from __future__ import annotations

import base64
import logging
import math
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock

from pqbench.core.secrets import mask_text
from pqbench.core.terminal import quieten_libraries
from pqbench.tracking.settings import TrackingSettings, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 2.0


class StoreError(Exception):
    """The store cannot be used now; never leaves the tracking package."""


def unreachable(settings: TrackingSettings) -> str | None:
    """Why a server does not answer ``GET /health``, or a database takes no connection; or None.

    Asked before MLflow is, which speaks for minutes to a database that is down.
    """
    timeout = min(HEALTH_TIMEOUT_S, settings.timeout_s)
    address = settings.database_address
    try:
        if settings.is_server:
            with urllib.request.urlopen(_health(settings.tracking_uri), timeout=timeout):
                return None
        if address is not None:
            with socket.create_connection(address, timeout):
                return None
    except (OSError, ValueError) as error:  # URLError, HTTPError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        what = "MLflow server" if settings.is_server else "database"
        return f"no {what} at {settings.shown_uri}: {mask_text(str(reason))}"
    return None


def _health(uri: str) -> urllib.request.Request:
    """The request that asks a server how it is; urllib takes no user and password in an address."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    path = f"{parts.path.rstrip('/')}/health"
    request = urllib.request.Request(urlunsplit((parts.scheme, host, path, "", "")))
    if at:
        word = base64.b64encode(unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
    return request


def ensure_store(settings: TrackingSettings) -> str | None:
    """Make the store and the experiment if they do not exist; call once, before any worker starts.

    Processes that meet in a new database break each other's table creation, hence one caller and
    a lock.

    Returns:
        MLflow's id of the experiment; None if tracking is off or the store cannot be used, which a
        warning tells.
    """
    if not settings.enabled:
        return None
    try:
        with opened(settings) as client:
            return experiment_id(client, settings)
    except StoreError as error:
        log.warning("%s; results stay on disk (%s)", error, push_later(settings, "DIR"))
        return None


@contextmanager
def opened(settings: TrackingSettings) -> Iterator[MlflowClient]:
    """A client; everything that says "not now" becomes a :class:`StoreError`."""
    problem = unreachable(settings)
    if problem:
        raise StoreError(problem)
    with environment(settings.timeout_s):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        quieten_libraries()
        try:
            with _making(settings):
                client = MlflowClient(settings.tracking_uri)
            yield client
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            # ImportError: the database's driver is not installed
            first_line = str(error).strip().partition("\n")[0]
            raise StoreError(f"MLflow at {settings.shown_uri}: {mask_text(first_line)}") from error


def experiment_id(client: MlflowClient, settings: TrackingSettings) -> str:
    """The experiment's id; made with its artifact folder if it is new."""
    found = client.get_experiment_by_name(settings.experiment)
    if found is None:
        with _making(settings):
            found = client.get_experiment_by_name(settings.experiment)
            if found is None:
                return _create_experiment(client, settings)
    if found.lifecycle_stage == "deleted":
        raise StoreError(
            f"experiment {settings.experiment} is in the trash of {settings.shown_uri}: "
            "restore it or set tracking.experiment"
        )
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, settings: TrackingSettings) -> str:
    note = "Model x dataset x recipe x backend, measured by pqbench; one run per experiment."
    return str(
        client.create_experiment(
            settings.experiment,
            # without it artifacts of an sqlite store land in the current folder
            artifact_location=settings.artifact_location,
            tags={
                "mlflow.note.content": note,
                "mlflow.experimentKind": "custom_model_development",
            },
        )
    )


@contextmanager
def _making(settings: TrackingSettings) -> Iterator[None]:
    """Held by one process at a time: tables and experiments are not made safely by several."""
    file = settings.database_file
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if not file.exists() or not file.stat().st_size:
            _make_database(file, settings.artifact_location)
        yield


def _make_database(file: Path, artifact_location: str | None) -> None:
    """Make MLflow's tables aside: killed while it makes them, it cannot go on in the same file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = file.with_name(f".{file.name}.new")
    for left in (aside, aside.with_name(f"{aside.name}-journal")):
        left.unlink(missing_ok=True)
    try:
        make: Any = SqlAlchemyStore  # MLflow declares no types for it
        store = make(sqlite_uri(aside), artifact_location or str(file.parent))
        store.engine.dispose()
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def environment(timeout_s: float) -> Iterator[None]:
    """MLflow's switches that exist only as environment variables; put back afterwards.

    With MLflow's defaults one call to a dead server takes minutes (7 retries of 120 s).
    """
    wanted = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(timeout_s)),
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def push_later(settings: TrackingSettings, folder: Path | str) -> str:
    """The words that say how a record gets there another time."""
    return f"{settings.sync_command(folder)} pushes later"
