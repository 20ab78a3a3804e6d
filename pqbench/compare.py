"""``python -m pqbench.compare A B``: did anything get worse from A to B? For use in CI.

A and B are records, or folders of records, which are matched by model, data set, split, recipe,
backend and their settings. Speedup, latency, accuracy, size, memory and INT8 share are judged by
their intervals, corrected for how many there are; see ``--help`` for what may change unjudged.

Exit codes: 0 nothing worse; 1 something is worse, or an experiment of A has no result in B;
2 nothing to compare, or two environments without ``--across``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.record import Record
from pqbench.core.terminal import open_streams
from pqbench.report.between_runs import spread_of
from pqbench.report.environments import environment_key, environment_labels
from pqbench.report.load import find_records, newest
from pqbench.report.regression import (
    SAME,
    UNTRUSTED,
    WORSE,
    Allowances,
    Figure,
    adjusted,
    figures,
    print_figures,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print.

    Returns:
        0, 1 or 2, see above.
    """
    from rich.console import Console

    args = _arguments().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    allowances = Allowances(args.latency, args.memory, args.speedup, args.accuracy_pt)
    console = Console()
    try:
        before, after = load(args.before), load(args.after)
        pairs = match(before, after)
        check_environments(pairs, args.across)
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lost, worse, distrusted = 0, 0, 0
    spread = spread_of([before, after])
    found = [
        list(figures(old, new, allowances, spread)) if old.ok and new and new.ok else []
        for old, new in pairs
    ]
    judged = iter(adjusted([f for one in found for f in one]))  # one family over all pairs
    for (old, new), one in zip(pairs, found, strict=True):
        here = [next(judged) for _ in one]
        lost += _lost(old, new)
        worse += sum(f.verdict == WORSE for f in here)
        distrusted += sum(f.verdict == UNTRUSTED for f in here)
        shown: list[Figure] = here if args.all else [f for f in here if f.verdict != SAME]
        if shown:
            console.print(f"\n{title(old)}", style="bold", highlight=False)
            print_figures(shown, console, ("A", "B"))
    total = sum(len(one) for one in found)
    print(
        f"Medians vary from run to run by {100 * spread.deviation:.1f} % (standard deviation, "
        f"{spread.dof:.0f} degrees of freedom); beyond that and --latency they count."
    )
    print(
        f"{len(pairs)} experiments, {total} figures: {worse} worse, "
        f"{distrusted} not to be trusted, {lost} without a result in B"
    )
    return 1 if worse or lost else 0


def _arguments() -> argparse.ArgumentParser:
    defaults = Allowances()
    parser = argparse.ArgumentParser(
        prog="python -m pqbench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, metavar="A", help="record.json or a folder: reference")
    parser.add_argument("after", type=Path, metavar="B", help="the same, judged against A")
    parser.add_argument("--all", action="store_true", help="show figures that agree as well")
    parser.add_argument(
        "--across", action="store_true", help="compare different machines or library versions"
    )
    for name, value, what in (
        ("latency", defaults.latency, "share by which a median latency may change"),
        ("memory", defaults.memory, "share by which peak memory may change"),
        ("speedup", defaults.speedup, "share by which a speedup may change"),
        ("accuracy-pt", defaults.accuracy_pt, "percentage points by which accuracy may change"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=value, help=f"{what}; default {value:g}"
        )
    return parser


def load(path: Path) -> list[Record]:
    """The record, or the newest of each experiment below a folder.

    Raises:
        DataError: There is none.
    """
    if path.is_file():
        return [Record.load(path)]
    records = newest([record for record, _ in find_records(path)])
    if not records:
        raise DataError(f"no record.json below {path}")
    return records


def title(record: Record) -> str:
    """``model · recipe · backend · data set``."""
    e = record.experiment
    return f"{e.model} · {e.recipe_name} · {e.backend} · {e.dataset} {e.split}"


def match(before: Sequence[Record], after: Sequence[Record]) -> list[tuple[Record, Record | None]]:
    """Each record of A with its counterpart in B: the same fingerprint, else the same names.

    Raises:
        DataError: Nothing matches, or names match several records of B.
    """
    by_fingerprint = {record.fingerprint: record for record in after}
    by_name: dict[str, list[Record]] = {}
    for record in after:
        by_name.setdefault(title(record), []).append(record)
    pairs: list[tuple[Record, Record | None]] = []
    for record in before:
        other = by_fingerprint.get(record.fingerprint)
        if other is None:
            named = by_name.get(title(record), [])
            if len(named) > 1:
                raise DataError(
                    f"{title(record)}: {len(named)} records of B have this name and other settings",
                    hint="give folders in which the settings are the same, or single records",
                )
            other = named[0] if named else None
        pairs.append((record, other))
    if all(other is None for _, other in pairs):
        raise DataError("A and B have no experiment in common")
    return pairs


def check_environments(pairs: Sequence[tuple[Record, Record | None]], across: bool) -> None:
    """Refuse to compare different environments unless asked to.

    Raises:
        DataError: They differ and ``across`` is false.
    """
    for old, new in pairs:
        if new is None or environment_key(old) == environment_key(new) or across:
            continue
        names = environment_labels([old, new])
        raise DataError(
            f"{title(old)}: A was measured in another environment ({names[0]}) than B ({names[1]})",
            hint="--across compares them nevertheless",
        )


def _lost(old: Record, new: Record | None) -> int:
    """1, and a line, if there was a result and is none now."""
    if not old.ok or (new is not None and new.ok):
        return 0
    if new is None:
        print(f"{title(old)}: missing in B")
    else:
        print(f"{title(old)}: in B {new.status}: {new.error.message if new.error else ''}")
    return 1


if __name__ == "__main__":
    open_streams()
    sys.exit(main())
