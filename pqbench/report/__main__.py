"""``python -m pqbench.report DIR --out DIR``: tables and figures of every record below DIR."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pqbench.errors import PqbenchError
from pqbench.report.load import load_records
from pqbench.report.summary import Pointers, print_summary
from pqbench.report.write import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its table.

    Returns:
        0, or 2 if there is no record to report.
    """
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m pqbench.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="searched for record.json")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go; default: DIR/report"
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        records = load_records(args.folder)
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not records:
        print(f"error: no record.json below {args.folder}", file=sys.stderr)
        return 2
    out = args.out or args.folder / "report"
    files = write_report(records, out)
    print_summary(records, Console(), Pointers(folder=args.folder, files=files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
