"""``python -m pqbench.sync DIR``: push every record below DIR that its MLflow store lacks.

Where to is said by this command and by nothing else: ``--uri`` and ``--experiment``, else the local
store of ``--outputs``. A record may be a stranger's, so where it was meant to go is told but not
followed. What is there already is not pushed again, however often this runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pqbench.core.errors import PqbenchError
from pqbench.core.record import Record
from pqbench.core.terminal import exit_code, printable
from pqbench.report.load import find_records
from pqbench.tracking import journal
from pqbench.tracking.push import push
from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import ensure_store


def main(argv: Sequence[str] | None = None) -> int:
    """Push what is missing.

    Returns:
        0 if every record is now in its store, 1 if some could not be pushed, 2 if none was found.
    """
    parser = argparse.ArgumentParser(prog="python -m pqbench.sync", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="searched for record.json")
    parser.add_argument("--uri", help="MLflow tracking URI; default: the local store of --outputs")
    parser.add_argument("--experiment", default="pqbench", help="default: %(default)s")
    parser.add_argument("--outputs", default="outputs", help="default: %(default)s")
    parser.add_argument(
        "--artifact-root", help="folder or URI for the artifacts of an experiment that is new"
    )
    parser.add_argument("--sweep", help="sweep of records that were never tracked")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    counts = {"pushed": 0, "there already": 0, "failed": 0, "tracking off": 0}
    ready: dict[TrackingSettings, bool] = {}
    elsewhere: set[str] = set()
    try:
        target = TrackingSettings(
            uri=args.uri,
            experiment=args.experiment,
            outputs=args.outputs,
            artifact_root=args.artifact_root,
        )
        records = find_records(args.folder)
        for record, folder in records:
            settings = replace(target, log_model=_logs_model(record))
            sweep = args.sweep or _sweep(folder)
            elsewhere |= _meant_for(folder) - {target.shown_uri}
            if args.uri is None and not _is_tracked(record):
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
    for uri in sorted(elsewhere):
        print(f"some were meant for {printable(uri)}: give --uri to push there", file=sys.stderr)
    return 1 if counts["failed"] else 0


def _sweep(folder: Path) -> str | None:
    """The sweep that the record's newest journal entry names: a label of the run."""
    entries = journal.read(folder)
    return entries[-1].sweep if entries else None


def _meant_for(folder: Path) -> set[str]:
    """Stores that the journal says this record has not reached, without passwords."""
    return {entry.uri for entry in journal.read(folder) if entry.run_id is None}


def _is_tracked(record: Record) -> bool:
    return _tracking(record).get("enabled") is not False


def _logs_model(record: Record) -> bool:
    return _tracking(record).get("log_model") is not False


def _tracking(record: Record) -> Mapping[str, Any]:
    found = record.config.get("tracking")
    return found if isinstance(found, Mapping) else {}


def _sync(record: Record, folder: Path, settings: TrackingSettings, sweep: str | None) -> str:
    before = {entry.run_id for entry in journal.pushed(folder)}
    run_id = push(record, folder, settings, sweep)
    if run_id is None:
        return "failed"
    return "there already" if run_id in before else "pushed"


if __name__ == "__main__":
    sys.exit(exit_code(main))
