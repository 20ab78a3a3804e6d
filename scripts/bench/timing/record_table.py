"""A Markdown table of the records below a folder with what a compression changes, in one row each.

Accuracy, parameters, MACs, file size, integer share and, for every batch size, latency with the
paired speedup over the baseline; the report's own table leaves parameters and MACs out. With
``--profiles`` a second table: ms per call by kernel type, from the runtimes' own profilers, for the
records that have a profile.

    python scripts/bench/timing/record_table.py outputs/sweeps/2026-11-24_12-00-00 [--profiles]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pqbench.core.record import Record
from pqbench.report.load import load_records, newest

LARGEST = 8  # kernel types shown of a profile


def named(record: Record) -> str:
    """Recipe, and the settings of its steps that the command line changed."""
    changed = [
        f"{'.'.join(key.split('.')[2:])}={value}"
        for key, value in (
            word.strip("'").split("=", 1) for word in record.command.split() if "=" in word
        )
        if key.startswith("compress.")
    ]
    recipe = ", ".join(record.experiment.recipe) or "FP32"
    return f"`{recipe}`" + (f" ({', '.join(changed)})" if changed else "")


def figures(records: Sequence[Record]) -> list[str]:
    """The first table, line by line."""
    sizes = sorted({item.batch_size for record in records for item in record.latency})
    head = ["recipe", "backend", "top-1", "drop in points", "agreement", "parameters", "MACs"]
    head += ["MB", "size ratio", "integer share"]
    for size in sizes:
        head += [f"p50 ms, b {size}", f"speedup, b {size}"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for record in records:
        backend = record.experiment.backend
        if not record.ok or record.accuracy is None:
            why = record.error.message if record.error else "not scored"
            lines.append(f"| {named(record)} | {backend} | {record.status}: {why} |")
            continue
        against, size = record.accuracy.against_baseline, record.size
        share = record.placement.int8_share if record.placement else None
        cells = [
            named(record),
            backend,
            f"{record.accuracy.top1:.1%}",
            f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]"
            if against
            else "",
            f"{against.agreement:.1%}" if against else "",
            f"{size.parameters / 1e6:.2f} M" if size.parameters else "",
            f"{size.macs / 1e6:.0f} M" if size.macs else "",
            f"{size.file_bytes / 1e6:.2f}" if size.file_bytes else "",
            f"{size.file_ratio:.3f}" if size.file_ratio else "",
            "" if share is None else f"{share:.0%}",
        ]
        for batch in sizes:
            latency, speedup = record.latency_at(batch), record.speedup_at(batch)
            cells.append(f"{latency.p50_ms:.2f}" if latency else "")
            cells.append(
                f"{speedup.ratio:.2f} [{speedup.low:.2f}, {speedup.high:.2f}]"
                + (" disturbed" if speedup.disturbed else "")
                if speedup
                else ""
            )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def profiles(records: Sequence[Record]) -> list[str]:
    """The second table: a column per profiled record, a row per kernel type."""
    lines = []
    for record in records:
        if record.profile is None:
            continue
        found = record.profile
        kinds = sorted(
            {*found.ms, *found.baseline_ms},
            key=lambda k: -max(found.ms.get(k, 0), found.baseline_ms.get(k, 0)),
        )
        lines += [
            "",
            f"{named(record)}, {record.experiment.backend}, batch {found.batch_size}:",
            "",
        ]
        lines += ["| kernel type | ms | FP32 ms |", "| --- | --- | --- |"]
        for kind in kinds[:LARGEST]:
            pair = (found.ms.get(kind), found.baseline_ms.get(kind))
            lines.append(f"| {kind} | " + " | ".join("" if v is None else f"{v:.3f}" for v in pair))
            lines[-1] += " |"
        total = (sum(found.ms.values()), sum(found.baseline_ms.values()))
        lines.append(f"| all | {total[0]:.3f} | {total[1]:.3f} |")
    return lines


def main() -> int:
    """Print the tables; 2 if there is no record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="searched for record.json")
    parser.add_argument("--profiles", action="store_true", help="the kernels' times, too")
    chosen = parser.parse_args()
    found = newest([record for folder in chosen.folders for record in load_records(folder)])
    records = sorted(found, key=lambda r: (r.experiment.backend, len(r.experiment.recipe)))
    if not records:
        print("no record.json below " + ", ".join(map(str, chosen.folders)))
        return 2
    print("\n".join(figures(records)))
    if chosen.profiles:
        print("\n".join(profiles(records)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
