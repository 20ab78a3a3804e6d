"""What a page of docs/predecessors begins with: the answer, how sure, from which records.

``scripts/predecessors.py`` writes it between the page's first two marks. Nothing of it is written
by hand: the answer is the one that a sweep prints (:mod:`pqbench.report.answer`). As a command it
writes the table of a sweep, a line for each cell and batch size:

    python scripts/predecessor_answer.py outputs/sweeps/2026-11-27_10-00-00 benchmark_results.csv
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from pqbench.core.margins import Margins
from pqbench.core.record import Record
from pqbench.report.answer import answers
from pqbench.report.answer import lines as answer_lines
from pqbench.report.load import find_records, newest_found
from pqbench.report.names import backend_name, dataset_name, step_name
from pqbench.report.pairings import load_pairings
from pqbench.report.rows import ordered

ANSWER_BEGIN, ANSWER_END = "<!-- answer: begin -->", "<!-- answer: end -->"
MIB = 2**20
COLUMNS = (
    "data",
    "technique",
    "runtime",
    "batch_size",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "throughput_images_per_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "memory_mb",
    "size_mb",
    "top1",
    "macro_f1",
    "stable",
    "status",
    "reason",
    "protocol",
    "cpu",
    "commit",
)


def margins_of(records: Sequence[Record]) -> Margins:
    """The question that the newest record was measured for."""
    asked = max(records, key=lambda r: r.order).config.get("claim") or {}
    known = {f.name for f in fields(Margins)}
    return Margins(**{k: v for k, v in asked.items() if k in known})


def answer(
    records: Sequence[Record], folders: Sequence[Path], max_drop_pt: float | None = None
) -> list[str]:
    """The page's first lines: the answer of each model, then what it rests on.

    Args:
        records: The newest of each experiment.
        folders: Where they lie, for the pairings with what runs today.
        max_drop_pt: Points that may be lost; None: as many as the newest record was asked for.
    """
    margins = margins_of(records)
    if max_drop_pt is not None:
        margins = replace(margins, max_drop_pt=max_drop_pt)
    paired = [pairing for folder in folders for pairing in load_pairings(folder, records)]
    found = [
        one
        for one in answers(records, paired, margins)
        if any(r.ok and r.experiment.model == one.model for r in records)
    ]
    lines = [line for one in found for line in (*_told(answer_lines(one, commands=False)), "")]
    return [*lines, *_basis(records, margins)]


def _told(lines: Sequence[str]) -> list[str]:
    """The sentence in bold, the rest as items."""
    first, *rest = lines
    return [f"**{first}**", *(["", *(f"- {line}" for line in rest)] if rest else [])]


def _basis(records: Sequence[Record], margins: Margins) -> list[str]:
    """The question; date, machine, commit, protocol; unstable cells; what was scored."""
    lost = f"{margins.max_drop_pt:g} point{'' if margins.max_drop_pt == 1 else 's'}"
    asked = (
        f"Asked for: at most {lost} lost and at least {margins.min_speedup:g} times as fast, "
        f"{margins.confidence:.0%} for all claims together."
    )
    good = [r for r in records if r.ok]
    medians = [x for r in good for x in r.latency]
    unstable = sum(not x.stable for x in medians)
    share = f" ({unstable / len(medians):.0%})" if medians else ""
    days = sorted({r.created[:10] for r in records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    first = (
        f"Measured {when} on {_one(_cpu(r) for r in good)}, pqbench at commit "
        f"{_one(_commit(r) for r in good)}, protocol `{_one(_protocol(r) for r in good)}`: "
        f"{_counted(len(good), len(records))} "
        f"{unstable} of {len(medians)} medians are unstable{share}."
    )
    return [asked, "", first, "", _scored(good)]


def _counted(good: int, cells: int) -> str:
    if good == cells:
        return f"all {cells} cells have a result."
    return f"{good} of {cells} cells have a result; the others say why."


def _scored(good: Sequence[Record]) -> str:
    scored = [r for r in good if r.accuracy is not None and r.experiment.weights != "none"]
    if not scored:
        reasons = {r.reasons.get("accuracy", "random weights: nothing to score") for r in good} or {
            "no cell has a result"
        }
        return f"No accuracy and no F1: {'; '.join(sorted(reasons))}."
    given = [r.accuracy for r in scored if r.accuracy is not None]
    shares = []
    for metric in dict.fromkeys(a.metric_name for a in given):
        top = [100 * a.primary[0] for a in given if a.metric_name == metric]
        shares.append(f"{metric} {min(top):.1f} to {max(top):.1f} %")
    f1 = [r.accuracy.macro_f1 for r in scored if r.accuracy and r.accuracy.macro_f1 is not None]
    counts = sorted({r.accuracy.count for r in scored if r.accuracy is not None})
    images = " or ".join(f"{count:,}" for count in counts)
    text = f"{len(scored)} of {len(good)} were scored, on {images} samples: {', '.join(shares)}"
    return f"{text}, macro F1 {min(f1):.3f} to {max(f1):.3f}." if f1 else f"{text}."


def _one(values: Iterable[str]) -> str:
    """The different ones, in their order."""
    return " and ".join(dict.fromkeys(values))


def _cpu(record: Record) -> str:
    cpu = record.environment.get("cpu") or {}
    threads = record.config.get("threads")
    return f"{cpu.get('model', 'an unknown processor')}, {threads} threads"


def _commit(record: Record) -> str:
    git = record.environment.get("git") or {}
    commit = str(git.get("commit") or "unknown")[:10]
    return f"{commit} with uncommitted changes" if git.get("dirty") else commit


def _protocol(record: Record) -> str:
    return str((record.config.get("protocol") or {}).get("name", "unknown"))


def write_csv(records: Sequence[Record], path: Path) -> Path:
    """Write one line for each cell and batch size, cells without a result included.

    Args:
        records: The newest of each experiment.
        path: The file; its folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerows(_csv_lines(record))
    return path


def _csv_lines(record: Record) -> list[dict[str, object]]:
    scored = record.accuracy if record.experiment.weights != "none" else None
    size = record.size.file_bytes
    common: dict[str, object] = {
        "data": dataset_name(record.experiment.dataset),
        "technique": " + ".join(step_name(s) for s in record.experiment.recipe) or "Baseline",
        "runtime": backend_name(record.experiment.backend),
        "size_mb": _short(None if size is None else size / MIB, 2),
        "top1": _short(scored.top1 if scored else None, 4),
        "macro_f1": _short(scored.macro_f1 if scored else None, 4),
        "status": str(record.status),
        "reason": record.error.message.splitlines()[0] if record.error else "",
        "protocol": _protocol(record),
        "cpu": _cpu(record),
        "commit": _commit(record),
    }
    smallest = min((latency.batch_size for latency in record.latency), default=None)
    found = []
    for latency in record.latency:
        speedup = record.speedup_at(latency.batch_size)
        found.append(
            {
                **common,
                "batch_size": latency.batch_size,
                "latency_ms": _short(latency.p50_ms, 3),
                "latency_low_ms": _short(latency.p50_low_ms, 3),
                "latency_high_ms": _short(latency.p50_high_ms, 3),
                "throughput_images_per_s": _short(latency.throughput_per_s, 2),
                "speedup": _short(speedup.ratio if speedup else None, 3),
                "speedup_low": _short(speedup.low if speedup else None, 3),
                "speedup_high": _short(speedup.high if speedup else None, 3),
                # It was measured at the smallest batch size alone.
                "memory_mb": _short(
                    record.memory.rss_peak_mb if latency.batch_size == smallest else None, 1
                ),
                "stable": latency.stable,
            }
        )
    return found or [common]


def _short(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the table of a sweep as CSV.")
    parser.add_argument("folder", type=Path, help="a run or sweep")
    parser.add_argument("table", type=Path, help="the CSV file to write")
    given = parser.parse_args()
    records = [record for record, _ in newest_found(find_records(given.folder))]
    if not records:
        parser.exit(1, f"no record.json below {given.folder}\n")
    print(write_csv(ordered(records), given.table))


if __name__ == "__main__":
    main()
