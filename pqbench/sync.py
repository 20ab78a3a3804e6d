"""``python -m pqbench.sync DIR``: push every record below DIR that its MLflow store lacks.

Where to comes from the record itself (its journal, else its configuration), or from ``--uri`` and
``--experiment``. What is there already is not pushed again, however often this runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pqbench.core.errors import ConfigError, PqbenchError
from pqbench.core.record import Record
from pqbench.core.secrets import MASK
from pqbench.report.load import find_records
from pqbench.tracking import journal
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import ensure_store, push


def main(argv: Sequence[str] | None = None) -> int:
    """Push what is missing.

    Returns:
        0 if every record is now in its store, 1 if some could not be pushed, 2 if none was found.
    """
    parser = argparse.ArgumentParser(prog="python -m pqbench.sync", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="searched for record.json")
    parser.add_argument("--uri", help="MLflow tracking URI instead of the recorded one")
    parser.add_argument("--experiment", help="MLflow experiment instead of the recorded one")
    parser.add_argument("--sweep", help="sweep of records that were never tracked")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    counts = {"pushed": 0, "there already": 0, "failed": 0, "tracking off": 0}
    ready: dict[TrackingSettings, bool] = {}
    try:
        records = find_records(args.folder)
        for record, folder in records:
            settings, sweep = _target(record, folder, args.uri, args.experiment, args.sweep)
            if not settings.enabled:
                counts["tracking off"] += 1
                continue
            if settings not in ready:  # one warning for a dead store, not one per record
                ready[settings] = ensure_store(settings) is not None
            counts[_sync(record, folder, settings, sweep) if ready[settings] else "failed"] += 1
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not records:
        print(f"no record.json below {args.folder}", file=sys.stderr)
        return 2
    print(", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return 1 if counts["failed"] else 0


def _target(
    record: Record, folder: Path, uri: str | None, experiment: str | None, sweep: str | None
) -> tuple[TrackingSettings, str | None]:
    """Store and sweep of a record: options, else its newest journal entry, else its config."""
    tracking = dict(record.config.get("tracking") or {})
    if _withheld(tracking.get("uri")):
        if uri is None:
            raise ConfigError(
                f"{folder}: the record does not hold its store's address, which had a password or "
                "came from the environment",
                hint="give it with --uri",
            )
        tracking.update(uri=uri)
    settings = TrackingSettings.from_config({**record.config, "tracking": tracking})
    entries = journal.read(folder)
    if entries:
        last = entries[-1]
        sweep = sweep or last.sweep
        if not _withheld(last.uri):
            root = None if _withheld(last.artifact_root) else last.artifact_root
            settings = replace(settings, uri=last.uri, artifact_root=root)
        settings = replace(settings, experiment=last.experiment)
    if uri is not None:
        settings = replace(settings, enabled=True, uri=uri, artifact_root=None)
    if experiment is not None:
        settings = replace(settings, experiment=experiment)
    return settings, sweep


def _withheld(text: object) -> bool:
    """Whether a secret was masked in it, or left to the environment."""
    return isinstance(text, str) and (MASK in text or "${" in text)


def _sync(record: Record, folder: Path, settings: TrackingSettings, sweep: str | None) -> str:
    before = {entry.run_id for entry in journal.pushed(folder)}
    run_id = push(record, folder, settings, sweep)
    if run_id is None:
        return "failed"
    return "there already" if run_id in before else "pushed"


if __name__ == "__main__":
    sys.exit(main())
