"""How pqbench's own costs grow: found cells, entries of the cache, files of a data set, records.

A cost is good if it grows linearly or slower: the last column is the exponent between this line and
the one above it (1: linear; 2: quadratic), of the processor time where there is one, which other
work on the machine does not change. The found cells are one experiment whose limits differ.

    python scripts/bench/timing/growth.py [--only cells] [--cells 10 100 1000]
        [--entries 100 1000 10000] [--files 10000 100000] [--records 1000 10000]
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import costs_in_process
import fixed_costs
import report_scale
from bench_models import print_table
from fixed_costs import ROOT

PARTS = ("cells", "entries", "files", "records")


def sweep(folder: Path, cells: int) -> fixed_costs.Cost:
    """A sweep over cells that are all found: the same experiment, limited in other ways."""
    limits = ",".join(str(1000 + number) for number in range(cells))
    given = ["compress=none", "backend=torch", "tracking=none", f"limits.cell_s={limits}", "-m"]
    return fixed_costs.cost(fixed_costs.tiny.command(*given), folder)


def rows(found: Iterable[tuple[int, float, float | None]]) -> list[tuple[str, ...]]:
    """A line for each size: wall time, CPU time, CPU time of each more, exponent."""
    lines: list[tuple[str, ...]] = []
    before: tuple[int, float] | None = None
    for size, wall, cpu in found:
        used = wall if cpu is None else cpu
        each = exponent = ""
        if before is not None:
            each = f"{(used - before[1]) / (size - before[0]) * 1e6:,.0f}"
            exponent = f"{math.log(used / before[1]) / math.log(size / before[0]):.2f}"
        shown = "" if cpu is None else f"{cpu:.3f}"
        lines.append((f"{size:,}", f"{wall:.3f}", shown, each, exponent))
        before = size, used
    return lines


def table(what: str, found: Iterable[tuple[int, float, float | None]]) -> None:
    """Print one curve."""
    print(f"\n{what}", flush=True)
    print_table(("number", "s", "CPU s", "us for each more", "exponent"), rows(found))
    sys.stdout.flush()


def cells(folder: Path, numbers: list[int]) -> None:
    """Found cells."""
    fixed_costs.tiny.prepare(folder)
    sweep(folder, 1)  # measured
    table("found cells", ((n, *sweep(folder, n)) for n in [1, *numbers]))


def entries(folder: Path, numbers: list[int]) -> None:
    """Entries of a cache."""
    found = costs_in_process.keep_seconds(folder, numbers)
    table("one cache.keep, by entries", ((n, s, None) for n, s in found.items()))


def files(folder: Path, numbers: list[int]) -> None:
    """Files of a data set: listing and hash together, once."""

    def one(number: int) -> tuple[int, float, None]:
        costs_in_process.make_images(folder / str(number), number)
        listed, hashed, _ = costs_in_process.listing_seconds(folder / str(number))
        return number, listed + hashed, None

    table("listing of files", map(one, numbers))


def records(folder: Path, numbers: list[int]) -> None:
    """Records of a report, with its plots."""

    def one(number: int) -> tuple[int, float, float]:
        report_scale.write_records(folder / str(number), number)
        command = [sys.executable, "-m", "pqbench.report", str(folder / str(number))]
        taken = fixed_costs.cost([*command, "--out", str(folder / f"out{number}")], ROOT)
        return number, taken.wall, taken.cpu

    table("report of records", map(one, numbers))


def main() -> None:
    """Print the curves that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--cells", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--entries", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--records", type=int, nargs="+", default=[1000, 10_000])
    args = parser.parse_args()
    for part in args.only:
        with tempfile.TemporaryDirectory() as name:
            measure = {"cells": cells, "entries": entries, "files": files, "records": records}[part]
            measure(Path(name).resolve(), getattr(args, part))


if __name__ == "__main__":
    main()
