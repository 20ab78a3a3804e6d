"""The end of a sweep as an 80-column terminal shows it, as an SVG picture.

For the README: ``python scripts/terminal_picture.py outputs/sweeps/TIME docs/images/demo.svg``.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console

from pqbench.core.margins import Margins
from pqbench.report.answer import answers
from pqbench.report.load import find_records, newest_found
from pqbench.report.pairings import load_pairings
from pqbench.report.summary import Pointers, print_summary


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of a sweep")
    parser.add_argument("out", type=Path, help="file to write, .svg")
    parser.add_argument("--width", type=int, default=80, help="columns of the terminal")
    parser.add_argument("--title", default="pqbench experiment=demo -m")
    args = parser.parse_args()
    records = [record for record, _ in newest_found(find_records(args.sweep))]
    asked = max(records, key=lambda r: r.order).config["claim"]
    told = answers(records, load_pairings(args.sweep, records), Margins(**asked))
    console = Console(record=True, width=args.width, file=io.StringIO(), force_terminal=True)
    shown = Path("outputs", "sweeps", args.sweep.resolve().name)
    files = [shown / "report" / name for name in ("report.html", "table.md")]
    print_summary(records, console, Pointers(folder=shown, files=files), told)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(args.out), title=args.title)
    print(args.out)


if __name__ == "__main__":
    main()
