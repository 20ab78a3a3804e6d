"""Write the measured part of docs/headline.md from the records of ``experiment=headline`` alone.

    python scripts/headline_page.py outputs/sweeps/*

The prose of the page is written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from predecessors import NONE, put

from pqbench.core.record import Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import backend_name, dataset_name, model_name, step_name
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "headline.md"
EAGER = "torch"


def _against(record: Record, other: Record | None, batch: int) -> str:
    """How many times as fast as another record: a ratio of medians, without an interval."""
    mine = record.latency_at(batch)
    theirs = other.latency_at(batch) if other else None
    return NONE if mine is None or theirs is None else f"{theirs.p50_ms / mine.p50_ms:.2f}"


def _cells(record: Record, eager: Record | None, sizes: Sequence[int]) -> list[str]:
    recipe = " + ".join(step_name(s) for s in record.experiment.recipe) or "uncompressed"
    cells = [recipe, backend_name(record.experiment.backend)]
    for batch in sizes:
        latency, speedup = record.latency_at(batch), record.speedup_at(batch)
        own = (
            NONE
            if speedup is None
            else f"{speedup.ratio:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"
        )
        shown = NONE if latency is None else f"{latency.p50_ms:.2f}"
        cells += [shown, own, _against(record, eager, batch)]
    accuracy = record.accuracy if record.experiment.weights != "none" else None
    against = accuracy.against_baseline if accuracy else None
    cells.append(NONE if accuracy is None else f"{100 * accuracy.top1:.1f}")
    cells.append(
        NONE
        if against is None
        else f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]"
    )
    return cells


def lines(records: Sequence[Record]) -> list[str]:
    """A table for each model.

    Raises:
        ValueError: No record has a result.
    """
    good = [r for r in records if r.ok and r.latency]
    if not good:
        raise ValueError("none of these records has a result")
    sizes = sorted({x.batch_size for r in good for x in r.latency})
    out: list[str] = []
    for key in dict.fromkeys((r.experiment.model, r.experiment.dataset) for r in good):
        some = [r for r in good if (r.experiment.model, r.experiment.dataset) == key]
        # A backend's FP32 model is measured once and recorded by each cell that it belongs to.
        unique = {(r.experiment.backend, *r.experiment.recipe): r for r in some}
        eager = unique.get((EAGER,))
        header = ["recipe", "runtime"]
        for batch in sizes:
            header += [f"ms a call, batch {batch}", "against its own FP32", "against eager"]
        header += ["top-1 %", "drop, points"]
        where = "random weights and inputs" if key[1] == "synthetic" else dataset_name(key[1])
        out += [f"### {model_name(key[0])}, {where}", "", f"| {' | '.join(header)} |"]
        out.append("| --- | --- " + "| ---: " * (len(header) - 2) + "|")
        rows = sorted(unique.values(), key=lambda r: -r.latency[0].p50_ms)
        out += [f"| {' | '.join(_cells(r, eager, sizes))} |" for r in rows]
        out.append("")
    out += [line for text in methods_paragraphs(good) for line in (plain(text), "")]
    out.append(
        "Against its own FP32: in turns with the uncompressed model on the same runtime, 95 % "
        "interval. Against eager: the ratio of two medians, each from turns of its own, so without "
        "an interval. Uncompressed in BF16 is a runtime's own precision, and its own baseline."
    )
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    pairs = [p for folder in parser.parse_args().folders for p in find_records(folder)]
    put(PAGE, lines([record for record, _ in newest_found(pairs)]))
    print(PAGE)
