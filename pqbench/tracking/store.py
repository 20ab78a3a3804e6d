"""Push records into an MLflow store: each once, and never at the cost of the experiment.

MLflow is a copy for looking at; ``record.json`` on disk is the result. So nothing here raises when
the store cannot be reached: a warning says so, the journal beside the record notes it, and
``python -m pqbench.sync`` pushes later.

Exactly once: a run carries the record's SHA-256 and the sweep as tags from its first moment, and
the store is asked for them before a run is made, by one process at a time. A push that died
half-way left a run that is still RUNNING; the next push completes it and writes the same again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock

from pqbench.cache import Cache
from pqbench.core.errors import DataError
from pqbench.core.paths import files_inside
from pqbench.core.record import FILE, Record
from pqbench.core.secrets import mask_text
from pqbench.tracking import content, journal
from pqbench.tracking.onnx_flavour import log_onnx
from pqbench.tracking.settings import TrackingSettings, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "StoreError",
    "TrackingSettings",
    "ensure_store",
    "opened",
    "push",
    "save_view",
    "unreachable",
]

log = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 2.0
ARTIFACT_TIMEOUT_S = 20.0  # a server may store an upload elsewhere before it answers


def _later(settings: TrackingSettings, folder: Path | str) -> str:
    return f"{settings.sync_command(folder)} pushes later"


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
            return _experiment_id(client, settings)
    except StoreError as error:
        log.warning("%s; results stay on disk (%s)", error, _later(settings, "DIR"))
        return None


def push(record: Record, folder: Path, settings: TrackingSettings, sweep: str | None) -> str | None:
    """Log a record as one run, unless this record is already a run of this sweep.

    Args:
        record: The record that is saved in ``folder``.
        folder: Folder of ``record.json`` and of the record's ``files``.
        settings: Which store.
        sweep: Name of the sweep; None for a single experiment.

    Returns:
        The run's id; None if tracking is off or the store cannot be used, which a warning and the
        journal tell.

    Raises:
        DataError: There is no ``record.json`` in ``folder``.
    """
    if not settings.enabled:
        return None
    entry = journal.Entry(
        uri=settings.shown_uri,
        experiment=settings.experiment,
        sweep=sweep,
        record_sha256=journal.record_sha256(folder),
        artifact_root=mask_text(settings.artifact_folder or "") or None,
        reason="not tried yet",
    )
    with FileLock(folder / journal.LOCK):
        known = [e for e in journal.pushed(folder) if e.same_place(entry)]
        if not known:
            journal.mark(folder, entry)  # survives the death of this process
        try:
            with opened(settings) as client, _pushing(settings, entry):
                experiment_id = _experiment_id(client, settings)
                run_id = _push(client, experiment_id, record, folder, settings, entry)
        except StoreError as error:
            log.warning("%s not tracked: %s (%s)", folder / FILE, error, _later(settings, folder))
            if not known:
                journal.mark(folder, replace(entry, reason=str(error)))
            return known[0].run_id if known else None
        done = replace(entry, run_id=run_id, experiment_id=experiment_id, reason="")
        journal.mark(folder, done)
    return run_id


def save_view(
    settings: TrackingSettings, experiment_id: str, records: Sequence[Record], sweep: str | None
) -> str | None:
    """Keep a view of the run table, with the columns that matter and only this sweep's runs.

    Returns:
        The view's key for :func:`pqbench.tracking.links.runs_url`; None if the store cannot be
        used: the table is there without the view.
    """
    view = json.dumps(content.table_view(records, sweep))
    key = hashlib.sha256(view.encode()).hexdigest()[:16]
    try:
        with opened(settings) as client:
            client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{key}", view)
    except StoreError as error:
        log.warning("no view of the run table: %s", error)
        return None
    return key


@contextmanager
def opened(settings: TrackingSettings) -> Iterator[MlflowClient]:
    """A client; everything that says "not now" becomes a :class:`StoreError`."""
    problem = unreachable(settings)
    if problem:
        raise StoreError(problem)
    with _environment(settings.timeout_s):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with _making(settings):
                client = MlflowClient(settings.tracking_uri)
            yield client
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            # ImportError: the database's driver is not installed
            first_line = str(error).strip().partition("\n")[0]
            raise StoreError(f"MLflow at {settings.shown_uri}: {mask_text(first_line)}") from error


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
def _pushing(settings: TrackingSettings, entry: journal.Entry) -> Iterator[None]:
    """Held by the one process that pushes this record to this sweep.

    Jobs that share a baseline each have a copy of its record. Without a cache there are no copies,
    and nothing to keep the lock in.
    """
    cache = Cache(settings.folder / "cache")
    if not cache.locks.is_dir():
        yield
        return
    key = hashlib.sha256(f"{entry.record_sha256} {entry.sweep}".encode()).hexdigest()[:32]
    with cache.lock(f"{key}.push"):
        yield


@contextmanager
def _environment(timeout_s: float) -> Iterator[None]:
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


def _experiment_id(client: MlflowClient, settings: TrackingSettings) -> str:
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


def _push(
    client: MlflowClient,
    experiment_id: str,
    record: Record,
    folder: Path,
    settings: TrackingSettings,
    entry: journal.Entry,
) -> str:
    end_ms = _milliseconds(record.created)
    run = _find(client, experiment_id, entry)
    if run is None:
        run = client.create_run(
            experiment_id,
            start_time=end_ms - round(1000 * record.seconds),
            tags=content.tags(record, entry.record_sha256, entry.sweep),
            run_name=content.run_name(record),
        )
    elif run.info.status != "RUNNING":
        return str(run.info.run_id)
    run_id = str(run.info.run_id)
    _log_values(client, run_id, record, end_ms)
    with _environment(max(settings.timeout_s, ARTIFACT_TIMEOUT_S)):
        _log_files(client, run_id, record, folder, settings)
        model = record.path(folder, "model")
        if settings.onnx_flavour and record.ok and model is not None:
            log_onnx(run_id, model, settings)
    client.set_terminated(run_id, "FINISHED" if record.ok else "FAILED", end_time=end_ms)
    return run_id


def _find(client: MlflowClient, experiment_id: str, entry: journal.Entry) -> Run | None:
    """The run of this record in this sweep; one in the trash counts, the user put it there."""
    from mlflow.entities import ViewType

    same = client.search_runs(
        [experiment_id],
        filter_string=f"tags.record_sha256 = '{entry.record_sha256}'",
        run_view_type=ViewType.ALL,
    )
    return next((run for run in same if run.data.tags.get("sweep") == entry.sweep), None)


def _log_values(client: MlflowClient, run_id: str, record: Record, timestamp: int) -> None:
    """All params and metrics in one request; at a fixed time, so that a repetition adds nothing."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    metrics = [Metric(k, v, timestamp, 0) for k, v in content.metrics(record).items()]
    metrics += [Metric(name, v, timestamp, epoch) for name, epoch, v in content.curves(record)]
    params = [Param(k, v) for k, v in content.params(record).items()]
    client.log_batch(run_id, metrics=metrics[:1000], params=params[:100])
    e = record.experiment
    settings = json.dumps(record.config.get("dataset", {}), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    count = record.accuracy.count if record.accuracy else None
    data = Dataset(
        e.dataset,
        digest,
        source_type="local",
        source=json.dumps({"name": e.dataset}),
        profile=None if count is None else json.dumps({"num_rows": count}),
    )
    tag = InputTag("mlflow.data.context", e.split)
    client.log_inputs(run_id, datasets=[DatasetInput(data, [tag])])


def _log_files(
    client: MlflowClient, run_id: str, record: Record, folder: Path, settings: TrackingSettings
) -> None:
    """The record, its configuration and the files that it names, under their own paths."""
    import yaml

    client.log_artifact(run_id, str(folder / FILE))
    client.log_text(run_id, yaml.safe_dump(record.config, sort_keys=False), "config.yaml")
    named: dict[str, Any] = dict(record.files)
    if record.error and record.error.log and record.error.log not in named.values():
        named["error_log"] = record.error.log
    for name, relative in named.items():
        if name.startswith("model") and not settings.log_model:
            continue
        try:
            files_inside(folder, relative)  # the record may be a stranger's
        except DataError as error:
            log.warning("not pushed: %s", error)
            continue
        path, parent = folder / relative, Path(relative).parent.as_posix()
        target = None if parent == "." else parent
        if path.is_dir():
            client.log_artifacts(run_id, str(path), Path(relative).as_posix())
        elif path.is_file():
            client.log_artifact(run_id, str(path), target)
        else:
            log.warning("%s names %s as its %s, which is missing", folder / FILE, relative, name)


def _milliseconds(created: str) -> int:
    return round(1000 * datetime.fromisoformat(created).timestamp())
