"""Write the measured part of docs/runtimes_measured.md from the records of ``experiment=runtimes``.

    python scripts/runtimes_page.py outputs/sweeps/TIME [--tools tools.md]

The prose of the page is written by hand; what stands between its two marks is replaced. ``--tools``
is what scripts/bench/timing/own_tools.py printed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from predecessors import NONE, put

from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record, Speedup
from pqbench.report.answer import answers, lines
from pqbench.report.escape import markdown
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import backend_name, dataset_name, model_name, step_name
from pqbench.report.pairings import load_pairings
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "runtimes_measured.md"
EAGER = "torch"
HEADER = (
    "recipe",
    "runtime",
    "ms a call",
    "against its own FP32",
    "against eager",
    "top-1 %",
    "drop, points",
    "parity, dB",
    "INT8, % of the MACs",
)


def parity_db(record: Record) -> float | None:
    """The least SQNR of the conversions of an uncompressed model, in dB; None where there is none.

    What a quantizer changed on purpose is no conversion's parity, so recipes have none here.
    """
    if not record.is_baseline:
        return None
    found = [p["sqnr_db"] for p in record.parity if p.get("sqnr_db") is not None]
    return min(found) if found else None


def against_eager(
    record: Record, eager: Record | None, paired: Mapping[str, Pairing], batch: int
) -> str:
    """In turns with PyTorch eager, with its interval, else ``~`` and the ratio of two medians.

    Args:
        record: What it is about.
        eager: The model in PyTorch in FP32.
        paired: What was timed beside that, by fingerprint.
        batch: The batch size.
    """
    if record is eager:
        return "1"
    pairing = paired.get(record.fingerprint)
    found = pairing.speedup if pairing is not None else []
    speed = next((one for one in found if one.batch_size == batch), None)
    if speed is not None:
        return ratio(speed)
    mine, theirs = record.latency_at(batch), eager.latency_at(batch) if eager else None
    return NONE if mine is None or theirs is None else f"~{theirs.p50_ms / mine.p50_ms:.2f}"


def ratio(speed: Speedup) -> str:
    """How many times as fast, with its interval."""
    return f"{speed.ratio:.2f} [{speed.low:.2f}, {speed.high:.2f}]"


def answer_lines(
    records: Sequence[Record], pairings: Sequence[Pairing], margins: Margins | None
) -> list[str]:
    """What the records answer, for each model; without pairings there is none."""
    if not pairings:
        return ["No finalist was timed beside PyTorch eager, so there is no answer here.", ""]
    out: list[str] = []
    for found in answers(records, pairings, margins):
        first, *rest = (markdown(line) for line in lines(found, commands=False))
        out += [f"**{first}**", "", *(f"- {line}" for line in rest), ""]
    return out


def row(record: Record, eager: Record | None, paired: Mapping[str, Pairing]) -> str:
    """One line of the table."""
    latency, accuracy, placement = record.latency[0], record.accuracy, record.placement
    speed = record.speedup[0] if record.speedup else None
    drop = accuracy.against_baseline if accuracy else None
    parity = parity_db(record)
    share = None if placement is None else placement.int8_macs_share
    if share is None and placement is not None:
        share = placement.int8_share
    cells = [
        " + ".join(step_name(s) for s in record.experiment.recipe) or "uncompressed",
        backend_name(record.experiment.backend),
        f"{latency.p50_ms:.2f}{'' if latency.stable else '*'} "
        f"[{latency.p50_low_ms:.2f}, {latency.p50_high_ms:.2f}]",
        NONE if speed is None else ratio(speed),
        against_eager(record, eager, paired, latency.batch_size),
        NONE
        if accuracy is None
        else f"{100 * accuracy.top1:.1f} "
        f"[{100 * accuracy.top1_low:.1f}, {100 * accuracy.top1_high:.1f}]",
        NONE
        if drop is None
        else f"{drop.drop_pt:.1f} [{drop.drop_low_pt:.1f}, {drop.drop_high_pt:.1f}]",
        NONE if parity is None else f"{parity:.1f}",
        NONE if not share else f"{100 * share:.0f}",
    ]
    return "| " + " | ".join(cell.replace("*", "\\*").replace("~", "\\~") for cell in cells) + " |"


def missing(records: Sequence[Record]) -> list[str]:
    """Cells without a result, those of one reason together."""
    causes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        if record.error is not None:
            e = record.experiment
            cause = (record.status, record.error.message.splitlines()[0])
            causes[cause].append(f"{e.recipe_name} on {e.backend}")
    if not causes:
        return []
    out = ["### Cells without a result", "", "| status | why | cells |", "| --- | --- | --- |"]
    for (status, why), cells in causes.items():
        named = ", ".join(dict.fromkeys(cells))
        out.append(f"| `{status}` | {markdown(why)} | {markdown(named)} |")
    return [*out, ""]


def page(
    records: Sequence[Record],
    pairings: Sequence[Pairing],
    tools: str = "",
    margins: Margins | None = None,
) -> list[str]:
    """The measured part: the answers, a table for each model, what has no result, methods.

    Args:
        records: Of the sweep, the newest of each experiment.
        pairings: Finalists timed beside PyTorch eager.
        tools: A table of what the runtimes' own tools measure, in Markdown.
        margins: What may be lost at most, and the like.

    Raises:
        ValueError: No record has a result.
    """
    good = [r for r in records if r.ok and r.latency]
    if not good:
        raise ValueError("none of these records has a result")
    paired = {p.candidate: p for p in pairings}
    out = answer_lines(records, pairings, margins)
    for key in dict.fromkeys((r.experiment.model, r.experiment.dataset) for r in good):
        some = [r for r in good if (r.experiment.model, r.experiment.dataset) == key]
        eager = next(
            (r for r in some if r.is_baseline and r.experiment.backend == EAGER),
            None,
        )
        out += [f"### {model_name(key[0])}, {dataset_name(key[1])}", ""]
        out += [f"| {' | '.join(HEADER)} |", "| --- | --- " + "| ---: " * (len(HEADER) - 2) + "|"]
        ranked = sorted(some, key=lambda r: r.latency[0].p50_ms)
        out += [*(row(r, eager, paired) for r in ranked), ""]
    out += missing(records)
    if tools:
        out += ["### Beside the runtimes' own tools", "", *tools.strip().splitlines(), ""]
    out += ["### How it was measured", ""]
    out += [line for text in methods_paragraphs(good) for line in (plain(text), "")]
    out.append(
        "Brackets: 95 % intervals. Against its own FP32: in turns with the uncompressed model on "
        "the same runtime. Against eager: in turns with PyTorch in FP32 where there is an "
        "interval; after \\~ a ratio of two medians, each from turns of its own. Parity: "
        "signal-to-noise ratio of the converted model's outputs on 32 photographs, the least of "
        "all conversions on its way. \\*: unstable, known less well than the protocol asks for."
    )
    return out


def main() -> None:
    """Read the records, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tools", type=Path, help="what own_tools.py printed")
    parser.add_argument("--drop", type=float, default=3, help="points that may be lost")
    given = parser.parse_args()
    found = newest_found([p for folder in given.folders for p in find_records(folder)])
    records = [record for record, _ in found]
    pairings = [p for folder in given.folders for p in load_pairings(folder, records)]
    tools = given.tools.read_text(encoding="utf-8") if given.tools else ""
    put(PAGE, page(records, pairings, tools, Margins(max_drop_pt=given.drop)))
    print(PAGE)


if __name__ == "__main__":
    main()
