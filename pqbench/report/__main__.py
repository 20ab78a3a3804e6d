"""``python -m pqbench.report DIR --out DIR``: tables, figures and a page of the records below DIR.

With ``--mlflow URI --experiment NAME`` the records come from an MLflow experiment instead.
``--where KEY=VALUE[,VALUE]`` chooses among them and may be repeated: ``--where model=resnet18
--where 'recipe!=none' --where protocol.name=paper``. ``--hide unsupported`` leaves out rows.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from pqbench.core.errors import PqbenchError
from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.core.terminal import exit_code, open_streams
from pqbench.report.answer import answers
from pqbench.report.environments import record_keys
from pqbench.report.filters import matching, without
from pqbench.report.load import find_records, newest_found
from pqbench.report.pairings import load_pairings
from pqbench.report.summary import Pointers, print_summary
from pqbench.report.trail import read_trail
from pqbench.report.write import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its table.

    Returns:
        0, or 2 if there is no record to report.
    """
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m pqbench.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="DIR", nargs="?", help="searched for record.json"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go; default: DIR/report"
    )
    parser.add_argument(
        "--mlflow", metavar="URI", help="MLflow tracking URI to read instead of DIR"
    )
    parser.add_argument(
        "--experiment",
        default="pqbench",
        metavar="NAME",
        help="MLflow experiment; default: pqbench",
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION", help="choose records"
    )
    parser.add_argument("--drop", type=float, metavar="POINTS", help="most that may be lost")
    parser.add_argument("--speedup", type=float, metavar="TIMES", help="least that must be gained")
    parser.add_argument("--confidence", type=float, metavar="SHARE", help="of all claims together")
    parser.add_argument(
        "--hide", action="append", default=[], metavar="STATUS",
        help="leave out experiments without a result, e.g. --hide unsupported,unavailable",
    )  # fmt: skip
    parser.add_argument("--no-plots", action="store_true", help="tables and page only")
    parser.add_argument("--font", choices=("serif", "sans"), default="serif", help="of the figures")
    args = parser.parse_args(argv)
    if (args.folder is None) == (args.mlflow is None):
        parser.error("give a folder, or --mlflow URI")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    out: Path = args.out or (args.folder or Path()) / "report"
    try:
        with _no_collection():
            found = _found(args.folder, args.mlflow, args.experiment, out)
        records = without(matching([record for record, _ in found], args.where), args.hide)
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not records:
        where = args.folder or args.mlflow
        why = f"--hide leaves none of {len(found)} records of" if found else "no record.json below"
        print(f"error: {why} {where}", file=sys.stderr)
        return 2
    keys = record_keys([record for record, _ in found])
    folders = {key: folder for key, (_, folder) in zip(keys, found, strict=True)}
    try:
        with _no_collection():
            trail = read_trail(args.folder)
            paired, margins = _pairings(args.folder, records), _margins(records, args)
            answered = answers(records, paired, margins, trail.unseen if trail else None)
            files = write_report(
                records, out, not args.no_plots, folders, args.font, answered, trail
            )
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # some libraries do not say which file
        error.filename = error.filename or str(out)
        raise
    pointers = Pointers(folder=args.folder or out, files=files)
    print_summary(records, Console(), pointers, answered)
    return 0


def _pairings(folder: Path | None, records: Sequence[Record]) -> list[Pairing]:
    return [] if folder is None else load_pairings(folder, records)


def _margins(records: Sequence[Record], args: argparse.Namespace) -> Margins:
    """The question: as given, else the one of the newest record."""
    last = max(records, key=lambda r: r.order).config.get("claim") or {}
    known = {f.name for f in fields(Margins)}
    given = {
        "max_drop_pt": args.drop,
        "min_speedup": args.speedup,
        "confidence": args.confidence,
    }
    asked = {k: v for k, v in last.items() if k in known}
    asked |= {k: v for k, v in given.items() if v is not None}
    return Margins(**asked)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector of reference cycles: among 10,000 records it takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _found(
    folder: Path | None, uri: str | None, experiment: str, out: Path
) -> list[tuple[Record, Path]]:
    """The newest record of each experiment and environment, with its folder."""
    if folder is not None:
        return newest_found(find_records(folder))
    from pqbench.report.mlflow_source import fetch_records

    return newest_found(fetch_records(uri or "", experiment, out / "records"))


if __name__ == "__main__":
    open_streams()
    sys.exit(exit_code(main))
