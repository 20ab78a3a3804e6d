"""Write the measured part of docs/pruning.md and its figures, from records alone.

    python scripts/pruning_page.py outputs/sweeps/*
    python scripts/pruning_page.py --page docs/pruning_trained.md outputs/sweeps/*

The prose of the page is written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from predecessors import NONE, put

from pqbench.core.record import Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import backend_name, dataset_name, model_name
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pruning.md"
# Marker and colour (Okabe and Ito) of what the channels were ranked by, and of what is beside them.
LOOKS = {
    "magnitude": ("o", "#0072B2"),
    "change of the outputs": ("v", "#56B4E9"),
    "Taylor": ("s", "#D55E00"),
    "BatchNorm's scale": ("^", "#009E73"),
    "random": ("x", "#7F7F7F"),
    "dense, smaller": ("D", "#000000"),
    "INT8 alone": ("*", "#CC79A7"),
    "pruned, then INT8": ("P", "#E69F00"),
}
CRITERIA = {
    "magnitude_l2": "magnitude",
    "output_change": "change of the outputs",
    "taylor": "Taylor",
    "bn_scale": "BatchNorm's scale",
    "random": "random",
}
INT8 = ("ort_int8", "nncf_int8")
GOAL_SPEEDUP, GOAL_DROP, GOAL_DROP_HIGH = 1.7, 1.0, 2.0
FEWEST_BLOCKS = 6  # pairs of timed blocks; records with fewer were made for their training alone


def settings(record: Record, step: str) -> Mapping[str, Any]:
    """Settings of a step of the recipe; empty where it has none such."""
    found: Mapping[str, Any] = record.config.get("compress", {}).get(step) or {}
    return found


def kind(record: Record) -> str:
    """Which of ``LOOKS`` a record belongs to."""
    recipe = record.experiment.recipe
    quantized = any(step in INT8 for step in recipe)
    if "prune" in recipe:
        ranked = str(settings(record, "prune").get("criterion"))
        return "pruned, then INT8" if quantized else CRITERIA[ranked]
    if "smaller" in recipe:
        return "dense, smaller"
    return "INT8 alone" if quantized else "dense"


def detail(record: Record) -> str:
    """What tells a record from the others of its kind."""
    if "smaller" in record.experiment.recipe:
        given = settings(record, "smaller").get("network", {})
        return ", ".join(f"{name} {value}" for name, value in given.items())
    if "prune" in record.experiment.recipe:
        return f"{100 * float(settings(record, 'prune')['pruning_ratio']):.0f} % of the MACs"
    return NONE


def passes(record: Record) -> int | None:
    """Passes over the train split after pruning; None where nothing was trained."""
    for entry in record.lineage:
        if entry["action"] in ("distill", "finetune", "trained"):
            return int(entry["details"]["epochs"])
    return None


def timed(record: Record) -> Any:
    """Speedup at the smallest batch size against the dense model; None where not well timed."""
    found = record.speedup_at(record.latency[0].batch_size) if record.latency else None
    return found if found is not None and found.pairs >= FEWEST_BLOCKS else None


def measured(records: Sequence[Record]) -> list[Record]:
    """The records with a result: what was timed, of one kind after another, least pruned first."""
    good = [r for r in records if r.ok and r.accuracy is not None and timed(r) is not None]
    kinds = list(LOOKS)
    return sorted(good, key=lambda r: (kinds.index(kind(r)), -(r.size.macs or 0), detail(r)))


def lost_classes(record: Record) -> list[str]:
    """Classes of which the record says that they are lost."""
    told = record.accuracy.faithfulness if record.accuracy else None
    return [c.name for c in told.classes or () if c.lost] if told else []


def holds(record: Record) -> bool | None:
    """Whether the speed and the loss asked for are reached; None where the loss is not told apart.

    True: at least ``GOAL_SPEEDUP`` with the interval's lower end, at most ``GOAL_DROP`` points with
    the upper end at most ``GOAL_DROP_HIGH``, no class lost.
    """
    speedup, accuracy = timed(record), record.accuracy
    against = accuracy.against_baseline if accuracy else None
    if speedup is None or against is None:
        return None
    if lost_classes(record) or speedup.low < GOAL_SPEEDUP or against.drop_pt > GOAL_DROP:
        return False
    return True if against.drop_high_pt <= GOAL_DROP_HIGH else None


def row(record: Record) -> str:
    """One line of the table."""
    speedup, accuracy = timed(record), record.accuracy
    against = accuracy.against_baseline if accuracy else None
    told = accuracy.faithfulness if accuracy else None
    worst = min(told.classes, key=lambda c: c.score) if told and told.classes else None
    lost = lost_classes(record)
    verdict = holds(record)
    weakest = NONE if worst is None else f"{worst.name}: {100 * worst.score:.0f}"
    cells = [
        kind(record),
        detail(record),
        str(passes(record) or NONE),
        NONE if record.size.macs is None else f"{record.size.macs / 1e6:.1f}",
        f"{record.size.file_bytes / 2**20:.2f}",
        NONE if accuracy is None else f"{100 * accuracy.top1:.1f}",
        NONE
        if against is None
        else f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]",
        f"{weakest}, lost" if lost else weakest,
        NONE
        if speedup is None
        else f"{speedup.ratio:.2f}{'*' if speedup.disturbed else ''} "
        f"[{speedup.low:.2f}, {speedup.high:.2f}]".replace("*", "\\*"),
        {True: "**yes**", False: "no", None: "undecided"}[verdict],
    ]
    return f"| {' | '.join(cells)} |"


def fastest(records: Sequence[Record], wanted: Sequence[str]) -> str | None:
    """The fastest of some kinds that holds the claim, in words; None where none does."""
    good = [r for r in records if kind(r) in wanted and holds(r)]
    if not good:
        return None
    best = max(good, key=lambda r: timed(r).ratio)
    speedup, accuracy = timed(best), best.accuracy
    assert accuracy is not None and accuracy.against_baseline is not None
    drop = accuracy.against_baseline
    trained = passes(best)
    told = f"{trained} pass{'es' if trained > 1 else ''}" if trained else NONE
    name = ", ".join(x for x in (kind(best), detail(best), told) if x != NONE)
    return (
        f"{name}: {speedup.ratio:.2f} [{speedup.low:.2f}, {speedup.high:.2f}] times, "
        f"{drop.drop_pt:.1f} [{drop.drop_low_pt:.1f}, {drop.drop_high_pt:.1f}] points lost"
    )


def answer(records: Sequence[Record]) -> list[str]:
    """What pays, in a line for each way."""
    ways = [list(CRITERIA.values())[:3], *([name] for name in list(LOOKS)[3:])]
    lines = []
    for wanted in ways:
        if any(kind(r) in wanted for r in records):
            nothing = f"{' or '.join(wanted)}: nothing holds the claim"
            lines.append(f"- {fastest(records, wanted) or nothing}.")
    return ["The fastest of each way that pays, if one does:", "", *lines, ""]


def budget(record: Record) -> str:
    """Passes over the train split after pruning, and what they took, in words."""
    for entry in record.lineage:
        if entry["action"] in ("distill", "finetune", "trained"):
            told = entry["details"]
            elsewhere = f" on an {told['hardware']}" if "hardware" in told else ""
            ending = "es" if told["epochs"] > 1 else ""
            return f"{told['epochs']} pass{ending} over {told['train_images']:,} images{elsewhere}"
    return "none"


def group(record: Record) -> tuple[str, str, str]:
    """Model, data set and backend, as the configuration names them."""
    e = record.experiment
    return e.model, e.dataset, e.backend


def lines(records: Sequence[Record], pictures: Mapping[tuple[str, str, str], str]) -> list[str]:
    """The measured part of the page.

    Raises:
        ValueError: No record has a result.
    """
    good = measured(records)
    if not good:
        raise ValueError("none of these records has a result")
    out = []
    for key in dict.fromkeys(group(r) for r in records if group(r) in pictures):
        model, dataset, backend = key
        some = [r for r in good if group(r) == key]
        dense = [r for r in records if group(r) == key and r.is_baseline and r.accuracy]
        budgets = Counter(budget(r) for r in some if "prune" in r.experiment.recipe)
        said = (
            f"Dense: {100 * dense[0].accuracy.top1:.1f} %. " if dense and dense[0].accuracy else ""
        )
        if budgets:
            said += f"After pruning: distillation from the dense model, {', '.join(budgets)}."
        caption = "Points of top-1 lost against speedup; dashed: what is asked."
        out += [
            f"## {model_name(model)} on {dataset_name(dataset)}, {backend_name(backend)}",
            "",
            said,
            "",
            *answer(some),
            f"![{caption}](images/{pictures[key]})",
            "",
            "| what | asked to go | passes | MACs, M | MiB | top-1 % | drop, points | "
            "weakest class, recall % | speedup | pays |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- |",
            *(row(record) for record in some),
            "",
        ]
    out += ["## How it was measured", ""]
    out += [line for text in methods_paragraphs(good) for line in (plain(text), "")]
    out += [
        f"Pays: at least {GOAL_SPEEDUP} times as fast (the interval's lower end) with at most "
        f"{GOAL_DROP:.0f} point lost, the upper end of the loss at most {GOAL_DROP_HIGH:.0f}, "
        "no class lost; undecided: all but the upper end of the loss. Brackets: 95 % interval; "
        "speedup in turns with the dense model on the same runtime; drop on the same images. "
        "`*`: disturbed by other load.",
    ]
    return out


def draw(records: Sequence[Record], file: Path) -> None:
    """Loss against speedup, a line for each criterion, both with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    from pqbench.report.style import STYLE

    good = [r for r in measured(records) if r.accuracy and r.accuracy.against_baseline]
    with mpl.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
        for name, (marker, colour) in LOOKS.items():
            some = [r for r in good if kind(r) == name]
            usual = Counter(passes(r) for r in some).most_common(1)
            for number in dict.fromkeys(passes(r) for r in some):
                alone = number != usual[0][0]  # of another budget: beside the curve, hollow
                _points(axes, [r for r in some if passes(r) == number], name, marker, colour, alone)
        axes.axhline(GOAL_DROP, color="#7F7F7F", linewidth=0.8, linestyle="--")
        axes.axvline(GOAL_SPEEDUP, color="#7F7F7F", linewidth=0.8, linestyle="--")
        axes.set_xlabel("times as fast as the dense model, batch 1")
        axes.set_ylabel("points of top-1 lost")
        axes.legend(loc="upper left")
        figure.savefig(file)
        pyplot.close(figure)


def _points(
    axes: Any, records: list[Record], name: str, marker: str, colour: str, alone: bool
) -> None:
    """Some records of one kind and one budget, with a line between those of a criterion."""
    records.sort(key=lambda r: timed(r).ratio)
    gains = [timed(r) for r in records]
    drops = [r.accuracy.against_baseline for r in records if r.accuracy]
    axes.errorbar(
        [s.ratio for s in gains],
        [a.drop_pt for a in drops],
        xerr=[
            [max(0.0, s.ratio - s.low) for s in gains],
            [max(0.0, s.high - s.ratio) for s in gains],
        ],
        yerr=[
            [max(0.0, a.drop_pt - a.drop_low_pt) for a in drops],
            [max(0.0, a.drop_high_pt - a.drop_pt) for a in drops],
        ],
        marker=marker,
        color=colour,
        markerfacecolor="white" if alone else colour,
        markersize=8 if marker == "*" else 5,
        linewidth=1 if name in CRITERIA.values() and not alone else 0,
        elinewidth=0.6,
        label=f"{name}, {passes(records[0])} passes" if alone else name,
    )


def make(folders: Sequence[Path], page: Path = PAGE) -> Path:
    """Write the page's measured part and its figures.

    Raises:
        ValueError: There is nothing to show, or the page has no marks.
        DataError: A folder does not exist.
    """
    found = newest_found([pair for folder in folders for pair in find_records(folder)])
    records = [record for record, _ in found]
    pictures = {}
    for key in dict.fromkeys(group(r) for r in measured(records)):
        pictures[key] = f"pruning_{key[0]}_{key[1]}_{key[2]}.png"
        draw([r for r in records if group(r) == key], page.parent / "images" / pictures[key])
    put(page, lines(records, pictures))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE, help="which page, in docs/")
    arguments = parser.parse_args()
    print(make(arguments.folders, arguments.page))
