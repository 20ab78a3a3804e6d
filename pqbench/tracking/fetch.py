"""Find a finished experiment in the tracking store and bring its record and files back to disk."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.errors import DataError
from pqbench.core.files import file_sha256
from pqbench.core.paths import files_inside, inside
from pqbench.core.record import FILE, Record
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import StoreError, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_ASIDE = ".fetched"
_NEWEST = 5  # runs of one fingerprint that are looked at


def fetch(
    settings: TrackingSettings, fingerprint: str, identity: str, folder: Path
) -> Record | None:
    """The record of a finished run, with its files in ``folder``.

    Args:
        settings: Which store.
        fingerprint: Hash of the configuration.
        identity: Hash of data, code, libraries and processor.
        folder: Folder of the experiment.

    Returns:
        The record; None if there is none, or the store cannot be used now: then it is measured.
    """
    if not settings.enabled:
        return None
    try:
        with opened(settings) as client:
            return _fetch(client, settings.experiment, fingerprint, identity, folder)
    except StoreError as error:
        log.info("    not looked for in the tracking store: %s", error)
        return None


def _fetch(
    client: MlflowClient, experiment: str, fingerprint: str, identity: str, folder: Path
) -> Record | None:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs(
        [found.experiment_id],
        filter_string=f"tags.fingerprint = '{fingerprint}' and tags.identity = '{identity}' "
        "and attributes.status = 'FINISHED'",
        max_results=_NEWEST,
    )
    aside = folder / _ASIDE
    for run in runs:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            # the record alone first: it says whether the rest is worth its way
            client.download_artifacts(run.info.run_id, FILE, str(aside))
            record = _usable(aside, run.data.tags.get("record_sha256"))
            if record is None or (record.fingerprint, record.identity) != (fingerprint, identity):
                continue
            client.download_artifacts(run.info.run_id, "", str(aside))
            return _put(record, aside, folder)
        except DataError as error:
            log.info("    run %s of the tracking store is unusable: %s", run.info.run_id, error)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return None


def _usable(aside: Path, sha256: str | None) -> Record | None:
    if sha256 is not None and file_sha256(aside / FILE) != sha256:
        raise DataError("its record is not the one that was pushed")
    record = Record.load(aside)
    return record if record.ok else None


def _put(record: Record, aside: Path, folder: Path) -> Record:
    """Move what the record names into its folder; the record last.

    Raises:
        DataError: A file is missing, a link, or not the one whose hash the record holds.
    """
    present = {k: text for k, text in record.files.items() if inside(aside, text).exists()}
    missing = [k for k in record.files if k not in present]
    if missing and missing != ["model"]:  # tracking.log_model=false
        raise DataError(f"{record.files[missing[0]]} is missing")
    gone = f"{record.files['model']}/" if missing else None
    hashes = {k: v for k, v in record.hashes.items() if not gone or not k.startswith(gone)}
    if not record.hashes:
        raise DataError("it has no hashes of its files")
    record = dataclasses.replace(record, files=present, hashes=hashes)
    changed = record.altered_files(aside)
    if changed:
        raise DataError(changed[0])
    for text in present.values():
        files_inside(aside, text)
        target = inside(folder, text)
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        inside(aside, text).replace(target)
    record.save(folder)
    return record
