"""``python -m pqbench.compare A B``: did anything get worse from A to B? For use in CI.

A and B are two records of any experiments, or two folders of records, which are matched by model,
data set, split, recipe, backend and their settings. Predictions on the same samples are compared
sample by sample, speedups where both are over the same model on the same runtime, latencies by how
much they vary from run to run; what cannot be paired is said. All is corrected for how many figures
there are; see below for what may change unjudged.

Exit codes: 0 nothing worse; 1 something is worse, or an experiment of A has no result in B;
2 nothing to compare, or two environments without ``--across``.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.record import FILE, Record
from pqbench.core.terminal import exit_code, open_streams
from pqbench.report.between_runs import spread_of
from pqbench.report.environments import environment_labels, may_be_compared
from pqbench.report.load import find_records, newest_found
from pqbench.report.predictions import read_predictions, same_samples
from pqbench.report.regression import (
    SAME,
    UNTRUSTED,
    WORSE,
    Allowances,
    Figure,
    adjusted,
    figures,
    print_figures,
    same_yardstick,
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
        found_before, found_after = load(args.before), load(args.after)
        before, after = ([record for record, _ in found] for found in (found_before, found_after))
        pairs = match(before, after)
        check_environments(pairs, args.across)
        places = {id(record): folder for record, folder in (*found_before, *found_after)}
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lost, worse, distrusted = 0, 0, 0
    spread = spread_of([before, after])
    found = [
        list(figures(old, new, allowances, spread, flips(old, new, places)))
        if old.ok and new and new.ok
        else []
        for old, new in pairs
    ]
    judged = iter(adjusted([f for one in found for f in one]))  # one family over all pairs
    for (old, new), one in zip(pairs, found, strict=True):
        here = [next(judged) for _ in one]
        lost += _lost(old, new)
        for line in unpaired(old, new, places):
            print(f"{heading(old, new)}: {line}")
        worse += sum(f.verdict == WORSE for f in here)
        distrusted += sum(f.verdict == UNTRUSTED for f in here)
        shown: list[Figure] = here if args.all else [f for f in here if f.verdict != SAME]
        if shown:
            console.print(f"\n{heading(old, new)}", style="bold", highlight=False)
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


def load(path: Path) -> list[tuple[Record, Path]]:
    """The record, or the newest of each experiment below a folder; each with its folder.

    Raises:
        DataError: There is none.
    """
    if path.is_file() or (path / FILE).is_file():
        return [(Record.load(path), path.parent if path.is_file() else path)]
    found = newest_found(find_records(path))
    if not found:
        raise DataError(f"no record.json below {path}")
    return found


def flips(old: Record, new: Record, places: Mapping[int, Path]) -> tuple[int, int, int] | None:
    """Samples that A alone has right, that B alone has right, and all.

    None where their predictions are not of the same samples, or not beside the records.
    """
    one, two = (read_predictions(record, places[id(record)]) for record in (old, new))
    if one is None or two is None or not same_samples(one, two):
        return None
    ours, theirs = (side["prediction"] == side["label"] for side in (one, two))
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)


def unpaired(old: Record, new: Record | None, places: Mapping[int, Path]) -> Iterator[str]:
    """What of two results cannot be compared pair by pair, and why."""
    if new is None or not old.ok or not new.ok:
        return
    if old.speedup and new.speedup and not same_yardstick(old, new):
        yield "speedups are over different models or runtimes, so they are not compared"
    if old.accuracy and new.accuracy and flips(old, new, places) is None:
        yield "predictions are not of the same samples, or not beside the records"


def title(record: Record) -> str:
    """``model · recipe · backend · data set``."""
    e = record.experiment
    return f"{e.model} · {e.recipe_name} · {e.backend} · {e.dataset} {e.split}"


def heading(old: Record, new: Record | None) -> str:
    """The experiment; both where they differ."""
    if new is None or title(old) == title(new):
        return title(old)
    return f"{title(old)} -> {title(new)}"


def match(before: Sequence[Record], after: Sequence[Record]) -> list[tuple[Record, Record | None]]:
    """Each record of A with its counterpart in B: the same fingerprint, else the same names.

    Two single records are meant to be compared, whatever they are.

    Raises:
        DataError: Nothing matches, or names match several records of B.
    """
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
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
        if new is None or across or may_be_compared(old, new):
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
    sys.exit(exit_code(main))
