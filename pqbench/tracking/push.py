"""Push records into an MLflow store: each once, and never at the cost of the experiment.

Nothing here raises when the store cannot be reached: a warning says so, the journal beside the
record notes it, and ``python -m pqbench.sync`` pushes later.

Exactly once: a run carries the record's SHA-256 and the sweep as tags from its first moment, and
the store is asked for them before a run is made, by one process at a time. A push that died
half-way left a run that is still RUNNING; the next push completes it and writes the same again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pqbench.cache import Cache
from pqbench.core.errors import DataError
from pqbench.core.paths import files_inside
from pqbench.core.record import FILE, Record
from pqbench.core.secrets import mask_text
from pqbench.tracking import content, journal
from pqbench.tracking.onnx_flavour import log_onnx
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import StoreError, environment, experiment_id, opened, push_later

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

ARTIFACT_TIMEOUT_S = 20.0  # a server may store an upload elsewhere before it answers


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
                experiment = experiment_id(client, settings)
                run_id = _push(client, experiment, record, folder, settings, entry)
        except StoreError as error:
            log.warning(
                "%s not tracked: %s (%s)", folder / FILE, error, push_later(settings, folder)
            )
            if not known:
                journal.mark(folder, replace(entry, reason=str(error)))
            return known[0].run_id if known else None
        done = replace(entry, run_id=run_id, experiment_id=experiment, reason="")
        journal.mark(folder, done)
    return run_id


def save_view(
    settings: TrackingSettings, experiment: str, records: Sequence[Record], sweep: str | None
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
            client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", view)
    except StoreError as error:
        log.warning("no view of the run table: %s", error)
        return None
    return key


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


def _push(
    client: MlflowClient,
    experiment: str,
    record: Record,
    folder: Path,
    settings: TrackingSettings,
    entry: journal.Entry,
) -> str:
    end_ms = _milliseconds(record.created)
    run = _find(client, experiment, entry)
    if run is None:
        run = client.create_run(
            experiment,
            start_time=end_ms - round(1000 * record.seconds),
            tags=content.tags(record, entry.record_sha256, entry.sweep),
            run_name=content.run_name(record),
        )
    elif run.info.status != "RUNNING":
        return str(run.info.run_id)
    run_id = str(run.info.run_id)
    _log_values(client, run_id, record, end_ms)
    with environment(max(settings.timeout_s, ARTIFACT_TIMEOUT_S)):
        _log_files(client, run_id, record, folder, settings)
        model = record.path(folder, "model")
        if settings.onnx_flavour and record.ok and model is not None:
            log_onnx(run_id, model, settings)
    client.set_terminated(run_id, "FINISHED" if record.ok else "FAILED", end_time=end_ms)
    return run_id


def _find(client: MlflowClient, experiment: str, entry: journal.Entry) -> Run | None:
    """The run of this record in this sweep; one in the trash counts, the user put it there."""
    from mlflow.entities import ViewType

    same = client.search_runs(
        [experiment],
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
