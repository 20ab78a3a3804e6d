"""How many figures of a sweep are marked, and what the marked ones lost their seconds to.

The share of medians that are unstable and of speedups that are disturbed, by protocol; and for each
batch size that is marked what its blocks show: the CPU that others took (``foreign``), the share of
the CPU time that its own threads wanted and did not get (``waited``), page faults per call, calls
per block, and how far the medians of its blocks and of its starts lie apart. Records that keep no
``waited`` and no ``faults`` have a dash there.

    python scripts/bench/timing/stars.py FOLDER [FOLDER ...]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pqbench.core.record import Record
from pqbench.report.load import find_records


@dataclass
class Counts:
    """Figures of one protocol, and how many of them are marked."""

    medians: int = 0
    unstable: int = 0
    speedups: int = 0
    disturbed: int = 0


def count(records: list[Record]) -> dict[str, Counts]:
    """By the protocol's name."""
    found: dict[str, Counts] = defaultdict(Counts)
    for record in records:
        counts = found[str(record.config.get("protocol", {}).get("name", "?"))]
        counts.medians += len(record.latency)
        counts.unstable += sum(not entry.stable for entry in record.latency)
        counts.speedups += len(record.speedup)
        counts.disturbed += sum(entry.disturbed for entry in record.speedup)
    return dict(found)


def spread(values: pd.Series) -> float:
    """Standard deviation of the logarithms, 0 for a single value."""
    return float(np.log(values).std(ddof=1)) if len(values) > 1 else 0.0


def causes(calls: pd.DataFrame) -> dict[str, float | None]:
    """What the candidate's blocks at one batch size show.

    Args:
        calls: Rows of ``latency.parquet`` of one batch size and side.
    """
    blocks = calls.groupby(["process", "pair"])
    medians = blocks["ns"].median()
    first = blocks.first()

    def mean(column: str, per_call: bool = False) -> float | None:
        if column not in first or first[column].isna().all():
            return None
        values = first[column] / blocks.size() if per_call else first[column]
        return float(values.mean())

    return {
        "foreign": mean("foreign"),
        "waited": mean("waited"),
        "faults per call": mean("faults", per_call=True),
        "calls per block": float(blocks.size().mean()),
        "between blocks": float(np.mean([spread(v) for _, v in medians.groupby("process")])),
        "between starts": spread(medians.groupby("process").median()),
    }


def show(name: str, value: float | None) -> str:
    if value is None:
        return f"{name} -"
    return f"{name} {value:.1f}" if "call" in name else f"{name} {value:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sweeps or records")
    args = parser.parse_args()
    found = [pair for folder in args.folders for pair in find_records(folder) if pair[0].ok]
    for name, c in sorted(count([record for record, _ in found]).items()):
        print(
            f"{name}: {c.unstable} of {c.medians} medians unstable, "
            f"{c.disturbed} of {c.speedups} speedups disturbed"
        )
    for record, folder in found:
        file = folder / record.files.get("latency", "")
        marked = [entry for entry in record.latency if not entry.stable]
        if not marked or not file.is_file():
            continue
        calls = pd.read_parquet(file)
        run = record.experiment
        title = " · ".join([run.model, "+".join(run.recipe) or "none", run.backend])
        for entry in marked:
            rows = calls[(calls["batch_size"] == entry.batch_size) & (calls["side"] == "candidate")]
            facts = ", ".join(show(name, value) for name, value in causes(rows).items())
            print(f"{title}, batch {entry.batch_size}: {entry.unstable_reason}\n    {facts}")


if __name__ == "__main__":
    main()
