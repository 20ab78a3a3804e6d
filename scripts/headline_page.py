"""Write the measured part of docs/headline.md from the records of ``experiment=headline`` alone.

    python scripts/headline_page.py outputs/sweeps/*

The prose of the page is written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from predecessors import NONE, put
from runtimes_page import EAGER, against_eager, answer_lines, ratio

from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import backend_name, dataset_name, model_name, step_name
from pqbench.report.pairings import load_pairings
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "headline.md"


def _cells(
    record: Record, eager: Record | None, paired: Mapping[str, Pairing], sizes: Sequence[int]
) -> list[str]:
    recipe = " + ".join(step_name(s) for s in record.experiment.recipe) or "uncompressed"
    cells = [recipe, backend_name(record.experiment.backend)]
    for batch in sizes:
        latency, speedup = record.latency_at(batch), record.speedup_at(batch)
        star = "" if latency is None or latency.stable else "*"
        cells += [
            NONE if latency is None else f"{latency.p50_ms:.2f}{star}",
            NONE if speedup is None else ratio(speedup),
            against_eager(record, eager, paired, batch),
        ]
    accuracy = record.accuracy if record.experiment.weights != "none" else None
    against = accuracy.against_baseline if accuracy else None
    cells.append(NONE if accuracy is None else f"{100 * accuracy.top1:.1f}")
    cells.append(
        NONE
        if against is None
        else f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]"
    )
    return [cell.replace("*", "\\*").replace("~", "\\~") for cell in cells]


def lines(
    records: Sequence[Record], pairings: Sequence[Pairing] = (), margins: Margins | None = None
) -> list[str]:
    """The answers, and a table for each model.

    Args:
        records: Of the sweep, the newest of each experiment.
        pairings: Finalists timed beside PyTorch eager.
        margins: What may be lost at most, and the like.

    Raises:
        ValueError: No record has a result.
    """
    good = [r for r in records if r.ok and r.latency]
    if not good:
        raise ValueError("none of these records has a result")
    sizes = sorted({x.batch_size for r in good for x in r.latency})
    paired = {p.candidate: p for p in pairings}
    out = answer_lines(records, pairings, margins)
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
        out += [f"| {' | '.join(_cells(r, eager, paired, sizes))} |" for r in rows]
        out.append("")
    out += [line for text in methods_paragraphs(good) for line in (plain(text), "")]
    out.append(
        "Brackets: 95 % intervals. Against its own FP32: in turns with the uncompressed model on "
        "the same runtime. Against eager: in turns with PyTorch in FP32 where there is an "
        "interval; after \\~ a ratio of two medians, each from turns of its own. \\*: unstable, "
        "known less well than the protocol asks for. Uncompressed in BF16 is a runtime's own "
        "precision, and its own baseline."
    )
    return out


def main() -> None:
    """Read the records, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--drop", type=float, default=3, help="points that may be lost")
    given = parser.parse_args()
    found = newest_found([p for folder in given.folders for p in find_records(folder)])
    records = [record for record, _ in found]
    pairings = [p for folder in given.folders for p in load_pairings(folder, records)]
    put(PAGE, lines(records, pairings, Margins(max_drop_pt=given.drop)))
    print(PAGE)


if __name__ == "__main__":
    main()
