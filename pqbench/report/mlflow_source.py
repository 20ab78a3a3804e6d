"""Fetch records from an MLflow experiment, so that a report can be made far from the outputs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.errors import DataError
from pqbench.core.paths import files_inside, inside
from pqbench.core.record import FILE, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
_PAGE = 1000


def fetch_records(uri: str, experiment: str, folder: Path) -> list[tuple[Record, Path]]:
    """Download every run's ``record.json``, and its latency samples, below ``folder``.

    What was fetched before is not fetched again.

    Args:
        uri: MLflow tracking URI.
        experiment: Name of the MLflow experiment.
        folder: Made if missing; one sub-folder per run.

    Returns:
        The records with their folders, newest run first.

    Raises:
        DataError: The store cannot be reached, or has no such experiment.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            names = ", ".join(sorted(e.name for e in client.search_experiments()))
            raise DataError(f"no MLflow experiment {experiment} in {uri}", hint=f"it has: {names}")
        return list(_fetched(client, str(found.experiment_id), folder))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(f"cannot read MLflow at {uri}: {first}") from error


def _fetched(client: MlflowClient, experiment: str, folder: Path) -> list[tuple[Record, Path]]:
    from mlflow.exceptions import MlflowException

    records = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        for run in page:
            where = folder / str(run.info.run_id)
            try:
                where = inside(folder, str(run.info.run_id))
                where.mkdir(parents=True, exist_ok=True)
                if not (where / FILE).is_file():
                    client.download_artifacts(run.info.run_id, FILE, str(where))
                record = Record.load(where)
                samples = record.path(where, "latency")
                if samples is not None and not samples.is_file():
                    client.download_artifacts(run.info.run_id, record.files["latency"], str(where))
                    files_inside(where, record.files["latency"])
            except (DataError, MlflowException, OSError) as error:
                log.warning("skipped: run %s: %s", run.info.run_name, error)
                continue
            records.append((record, where))
        token = page.token
        if not token:
            return records
