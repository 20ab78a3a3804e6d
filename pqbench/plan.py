"""``python -m pqbench.plan DIR [--drop 0.5] [--speedup 3%]``: how much to measure for an answer.

Reads the records below DIR as a pilot and says, for each experiment, how many images and how many
starts give the wished half-width of the drop's and the speedup's 95 % interval, from the pilot's
own variances, and how long that takes by the pilot's own times. At least 90 % of re-runs reach
it. Without a wish it says what the claims that are undecided lack (``claim`` in the
configuration: points that may be lost, speedup that is asked for).

Exit codes: 0 done; 2 nothing to plan from.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.margins import Margins
from pqbench.core.record import AgainstBaseline, Record, Speedup
from pqbench.core.sizing import about, samples_for_half_width, units_for_half_width
from pqbench.core.statistics import mean_of
from pqbench.core.terminal import exit_code
from pqbench.report.claims import Kind, Verdict, judge
from pqbench.report.load import load_records

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Need:
    """What one figure of one experiment needs.

    Attributes:
        name: The experiment.
        figure: ``drop``, or ``speedup at batch 1``.
        now: What the pilot knows, in words.
        wish: What is wished, in words.
        unit: ``images`` or ``starts``.
        total: So many in all; None where no number would do, and ``why`` says so.
        more: So many more than the pilot had; 0 if it had enough.
        pairs: Pairs of blocks in all; None for images.
        seconds: What the re-run takes with ``total``, in s; None where the pilot does not tell.
        why: Why there is no number.
    """

    name: str
    figure: str
    now: str
    wish: str
    unit: str
    total: int | None
    more: int | None
    pairs: int | None = None
    seconds: float | None = None
    why: str = ""


def start_seconds(record: Record) -> float | None:
    """Seconds that one start of both sides took, scoring left out; None if not known."""
    starts = max((len(s.start_ratios) for s in record.speedup), default=0)
    spent = sum(s.seconds for s in record.stages if s.name == "measure" and not s.cached)
    if not starts or not spent:
        return None
    count = record.accuracy.count if record.accuracy else 0
    scoring = count * (image_seconds(record) or 0.0)
    timed = sum(x.n * x.mean_ms / 1e3 for x in record.latency)
    return max(spent - scoring, timed) / starts


def image_seconds(record: Record) -> float | None:
    """Seconds that scoring one sample takes, by its latency; None if none was measured."""
    sizes = sorted(x.batch_size for x in record.latency)
    chosen = max((b for b in sizes if b <= 32), default=sizes[0] if sizes else None)
    latency = record.latency_at(chosen) if chosen is not None else None
    return latency.mean_ms / 1e3 / latency.batch_size if latency else None


def title(record: Record) -> str:
    """``model · recipe · backend``."""
    e = record.experiment
    return f"{e.model} · {e.recipe_name} · {e.backend}"


def drop_need(record: Record, half_width_pt: float) -> Need | None:
    """Images for a drop that is known to within so many points; None without predictions."""
    accuracy = record.accuracy
    against: AgainstBaseline | None = accuracy.against_baseline if accuracy else None
    if accuracy is None or against is None:
        return None
    half = (against.drop_high_pt - against.drop_low_pt) / 2
    total: int | None = None
    why = ""
    if against.lost is not None and against.gained is not None:
        counts = (against.lost, against.gained, accuracy.count)
        total = samples_for_half_width(*counts, half_width_pt / 100)
    elif against.error_pt is not None and against.dof is not None:
        pilot = (against.error_pt, against.dof, accuracy.count)
        total = units_for_half_width(*pilot, half_width_pt)
        why = "" if total else "out of reach"
    else:
        why = accuracy.too_few or "the record does not hold the paired counts: measure it again"
    each = image_seconds(record)
    return Need(
        title(record),
        "drop",
        f"{against.drop_pt:.2f} ±{half:.2f} pt",
        f"±{half_width_pt:g} pt",
        "images",
        total,
        None if total is None else max(total - accuracy.count, 0),
        seconds=None if total is None or each is None else 2 * total * each,
        why=why,
    )


def speedup_need(record: Record, speedup: Speedup, half_width: float) -> Need:
    """Starts for a speedup that is known to within this share of itself."""
    starts = len(speedup.start_ratios)
    mean = mean_of([math.log(ratio) for ratio in speedup.start_ratios])
    total: int | None = None
    why = "the pilot has one start: nothing tells what another would change"
    if mean is not None:
        total = units_for_half_width(mean.error, mean.dof, starts, math.log1p(half_width))
        why = "" if total else "out of reach"
    each = start_seconds(record)
    half = (speedup.high - speedup.low) / 2 / speedup.ratio
    return Need(
        title(record),
        f"speedup at batch {speedup.batch_size}",
        f"{speedup.ratio:.2f} ±{half:.1%}" + ("" if starts > 1 else " (one start)"),
        f"±{half_width:.1%}",
        "starts",
        total,
        None if total is None else max(total - starts, 0),
        None if total is None else math.ceil(total * speedup.pairs / max(starts, 1)),
        None if total is None or each is None else total * each,
        why,
    )


def wished(
    records: Sequence[Record], drop_pt: float | None, speedup: float | None
) -> Iterator[Need]:
    """What every experiment needs for the wished half-widths."""
    for record in records:
        if not record.ok or record.is_baseline:
            continue
        if drop_pt is not None:
            need = drop_need(record, drop_pt)
            if need is not None:
                yield need
        if speedup is not None:
            yield from (speedup_need(record, item, speedup) for item in record.speedup)


def undecided(records: Sequence[Record]) -> Iterator[Need]:
    """What the claims lack that the records leave undecided."""
    for cell in judge(records, margins_of(records)):
        record = cell.record
        for judged in cell.claims:
            if judged.verdict is not Verdict.UNDECIDED:
                continue
            drop = judged.claim.kind is Kind.DROP
            size = judged.claim.batch_size
            item = record.speedup_at(size) if size is not None else None
            starts = len(item.start_ratios) if item else 0
            had = starts if item else record.accuracy.count if record.accuracy else 0
            total = None if judged.more is None else had + judged.more
            each = start_seconds(record) if item else image_seconds(record)
            sides = 1 if item else 2  # a start is of both sides already
            yield Need(
                title(record),
                "drop" if drop else f"speedup at batch {size}",
                "" if judged.estimate is None else f"{judged.estimate:.2f}" + (" pt" * drop),
                str(judged.claim),
                "images" if drop else "starts",
                total,
                judged.more,
                None if total is None or not item else math.ceil(total * item.pairs / starts),
                None if total is None or each is None else sides * total * each,
                "" if judged.more is not None else judged.needs,
            )


def margins_of(records: Sequence[Record]) -> Margins:
    """The question that the records were made with; the default for older ones."""
    nodes: list[dict[str, Any]] = [r.config.get("claim") or {} for r in records]
    node = next((node for node in nodes if node), {})
    return Margins(**node)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan.

    Returns:
        0, or 2 if there is no record to plan from.
    """
    from rich.console import Console

    args = _arguments().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        records = load_records(args.folder)
        if not any(record.ok and not record.is_baseline for record in records):
            raise DataError(
                f"no result with a baseline below {args.folder}",
                hint="run a small sweep first: it is the pilot",
            )
    except PqbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.drop is None and args.speedup is None:
        needs = list(undecided(records))
    else:
        needs = list(wished(records, args.drop, args.speedup))
    if not needs:
        print("nothing is undecided: every claim holds or fails")
        return 0
    print_plan(needs, Console())
    return 0


def print_plan(needs: Sequence[Need], console: Console) -> None:
    """One line per figure, then what would serve them all."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("experiment", "figure", "now", "wish"):
        table.add_column(name)
    for name in ("needs", "more", "time"):
        table.add_column(name, justify="right")
    for need in needs:
        wanted = "\u2013" if need.total is None else f"{about(need.total)} {need.unit}"
        if need.total is not None and need.pairs:
            wanted += f", {need.pairs} pairs"
        more = "" if need.more is None else about(need.more) if need.more else "enough"
        seconds = "" if need.seconds is None else duration(need.seconds)
        table.add_row(need.name, need.figure, need.now, need.wish, wanted, more, seconds)
    console.print(table)
    for why in dict.fromkeys(need.why for need in needs if need.total is None):
        figures = sum(need.why == why for need in needs)
        console.print(f"{figures} without a number: {why}", highlight=False)
    for line in summary(needs):
        console.print(line, highlight=False)


def summary(needs: Sequence[Need]) -> list[str]:
    """The settings that would serve every figure, and the time of all experiments together."""
    lines = []
    images = max((n.total for n in needs if n.unit == "images" and n.total), default=0)
    starts = max((n.total for n in needs if n.unit == "starts" and n.total), default=0)
    if images:
        lines.append(f"For every drop: {images:,} images (dataset.limit={images}, if there are).")
    if starts:
        pairs = max(n.pairs or 0 for n in needs if n.unit == "starts")
        lines.append(
            f"For every speedup: {starts} starts "
            f"(protocol.processes={starts} protocol.min_pairs={pairs})."
        )
    total = 0.0
    for name in dict.fromkeys(n.name for n in needs):
        for unit in ("images", "starts"):  # the batch sizes of one start are measured together
            mine = [n.seconds or 0.0 for n in needs if n.name == name and n.unit == unit]
            total += max(mine, default=0.0)
    if total:
        lines.append(f"About {duration(total)} of measuring, by the pilot's own times.")
    return lines


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, rounded up."""
    if seconds < 120:
        return f"{math.ceil(seconds)} s"
    if seconds < 7200:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _share(text: str) -> float:
    """``3%`` or ``0.03``."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share such as 3% or 0.03")
    return value


def _points(text: str) -> float:
    value = float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number of points above 0, such as 0.5")
    return value


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pqbench.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="searched for record.json")
    parser.add_argument(
        "--drop", type=_points, metavar="POINTS", help="wished half-width of the drop"
    )
    parser.add_argument(
        "--speedup", type=_share, metavar="SHARE", help="wished half-width of the speedup: 3%%"
    )
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(main))
