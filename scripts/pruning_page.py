"""Write the measured part of docs/pruning.md and its figure, from records alone.

    python scripts/pruning_page.py outputs/sweeps/*

The prose of the page is written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predecessors import NONE, put

from pqbench.core.record import Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pruning.md"
MARKS = {"magnitude_l2": "o", "taylor": "s", "bn_scale": "^", "random": "x"}
GOAL_SPEEDUP, GOAL_DROP, GOAL_DROP_HIGH = 1.7, 1.0, 2.0


def criterion(record: Record) -> str:
    """By what the channels were ranked; the recipe's name where none were pruned."""
    node = record.config.get("compress", {}).get("prune")
    return str(node["criterion"]) if node else record.experiment.recipe_name


def share(record: Record) -> float | None:
    """Share of the MACs that was asked to go; None where none were pruned."""
    node = record.config.get("compress", {}).get("prune")
    return float(node["pruning_ratio"]) if node else None


def measured(records: Sequence[Record]) -> list[Record]:
    """The records with a result, of one model after another, the least pruned first."""
    good = [r for r in records if r.ok and r.accuracy is not None]
    return sorted(good, key=lambda r: (r.experiment.model, criterion(r), share(r) or 0.0))


def holds(record: Record) -> bool | None:
    """Whether the speed and the loss asked for are reached; None where they are not known."""
    speedup, accuracy = _speedup(record), record.accuracy
    against = accuracy.against_baseline if accuracy else None
    if speedup is None or accuracy is None or against is None:
        return None
    if accuracy.faithfulness and accuracy.faithfulness.faults:
        return False
    fast: bool = speedup.ratio >= GOAL_SPEEDUP
    return fast and against.drop_pt <= GOAL_DROP and against.drop_high_pt <= GOAL_DROP_HIGH


def _speedup(record: Record) -> Any:
    return record.speedup_at(record.latency[0].batch_size) if record.latency else None


def row(record: Record) -> str:
    """One line of the table."""
    speedup, accuracy = _speedup(record), record.accuracy
    against = accuracy.against_baseline if accuracy else None
    told = accuracy.faithfulness if accuracy else None
    worst = min(told.classes, key=lambda c: c.score) if told and told.classes else None
    mark = "\\*" if speedup and speedup.disturbed else ""
    verdict = holds(record)
    cells = [
        record.experiment.model,
        criterion(record),
        NONE if share(record) is None else f"{100 * (share(record) or 0):.0f} %",
        NONE if record.size.macs is None else f"{record.size.macs / 1e6:.1f}",
        NONE if accuracy is None else f"{100 * accuracy.top1:.1f}",
        NONE
        if against is None
        else f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]",
        NONE if worst is None else f"{worst.name}: {100 * worst.score:.0f}",
        f"{record.latency[0].p50_ms:.3f}" if record.latency else NONE,
        NONE
        if speedup is None
        else f"{speedup.ratio:.2f}{mark} [{speedup.low:.2f}, {speedup.high:.2f}]",
        NONE if verdict is None else "yes" if verdict else "no",
    ]
    return f"| {' | '.join(cells)} |"


def lines(records: Sequence[Record]) -> list[str]:
    """The measured part of the page.

    Raises:
        ValueError: No record has a result.
    """
    good = measured(records)
    if not good:
        raise ValueError("none of these records has a result")
    failed = [r for r in records if not r.ok]
    return [
        *(line for text in methods_paragraphs(good) for line in (plain(text), "")),
        "| model | channels ranked by | MACs asked to go | MACs, M | top-1 % | drop, points | "
        "weakest class, recall % | ms | speedup | pays |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        *(row(record) for record in good),
        "",
        f"Pays: at least {GOAL_SPEEDUP} times as fast with at most {GOAL_DROP:.0f} point lost and "
        f"the upper bound of the loss at most {GOAL_DROP_HIGH:.0f}, no class lost. "
        "Brackets: 95 % interval; speedup in turns with the unpruned model on the same runtime; "
        "drop on the same images. "
        "`*`: disturbed by other load.",
        *(f"\nWithout a result: {len(failed)} cells." for _ in failed[:1]),
    ]


def draw(records: Sequence[Record], file: Path) -> None:
    """Loss against speedup, a line for each criterion, both with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    from pqbench.report.style import STYLE

    points: dict[str, list[tuple[Any, Any]]] = {}
    for record in measured(records):
        speedup = _speedup(record)
        if speedup and record.accuracy and record.accuracy.against_baseline:
            pair = (speedup, record.accuracy.against_baseline)
            points.setdefault(f"{record.experiment.model}, {criterion(record)}", []).append(pair)
    with mpl.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
        for name, pairs in points.items():
            x, y = [s.ratio for s, _ in pairs], [a.drop_pt for _, a in pairs]
            axes.errorbar(
                x,
                y,
                xerr=[
                    [max(0.0, s.ratio - s.low) for s, _ in pairs],
                    [max(0.0, s.high - s.ratio) for s, _ in pairs],
                ],
                yerr=[
                    [max(0.0, a.drop_pt - a.drop_low_pt) for _, a in pairs],
                    [max(0.0, a.drop_high_pt - a.drop_pt) for _, a in pairs],
                ],
                marker=MARKS.get(name.rpartition(", ")[2], "D"),
                markersize=4,
                linewidth=1,
                elinewidth=0.6,
                label=name,
            )
        axes.axhline(GOAL_DROP, color="#7F7F7F", linewidth=0.8, linestyle="--")
        axes.axvline(GOAL_SPEEDUP, color="#7F7F7F", linewidth=0.8, linestyle="--")
        axes.set_xlabel("times as fast as the unpruned model, batch 1")
        axes.set_ylabel("points of top-1 lost")
        axes.legend()
        figure.savefig(file)
        pyplot.close(figure)


def make(folders: Sequence[Path], page: Path = PAGE) -> Path:
    """Write the page's measured part and its figure beside it.

    Raises:
        ValueError: There is nothing to show, or the page has no marks.
        DataError: A folder does not exist.
    """
    found = newest_found([pair for folder in folders for pair in find_records(folder)])
    records = [record for record, _ in found]
    body = lines(records)
    picture = page.with_suffix(".png")
    draw(records, picture)
    caption = "Points of accuracy lost against speedup; dashed: what is asked."
    put(page, [f"![{caption}]({picture.name})", "", caption, "", *body])
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    print(make(parser.parse_args().folders))
