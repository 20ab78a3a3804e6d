"""Write the measured part of docs/models.md: every cell of the model sweeps, from records alone.

    python scripts/models_table.py outputs/sweeps/*

The prose of the page is written by hand; what stands between its two marks is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from predecessors import NONE, put

from pqbench.core.record import METRIC_NAMES, Accuracy, Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.references import plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
MIB = 2**20
HEADER = (
    "model", "data set", "weights", "recipe", "backend", "status", "metric, %", "drop, points",
    "file MiB", "ms", "why not",
)  # fmt: skip
RECIPES = ("none", "nncf_int8", "ort_int8", "torch_dynamic", "ort_dynamic")
BACKENDS = ("torch", "ort", "openvino")


def in_order(records: Sequence[Record]) -> list[Record]:
    """By model in order of appearance, then recipe (baselines first), then backend."""
    models = list(dict.fromkeys((r.experiment.model, r.experiment.dataset) for r in records))

    def key(record: Record) -> tuple[int, int, str, int, str]:
        e = record.experiment
        return (
            models.index((e.model, e.dataset)),
            RECIPES.index(e.recipe_name) if e.recipe_name in RECIPES else len(RECIPES),
            e.recipe_name,
            BACKENDS.index(e.backend) if e.backend in BACKENDS else len(BACKENDS),
            e.backend,
        )

    return sorted(records, key=key)


def table(records: Sequence[Record]) -> list[str]:
    """One line of Markdown per experiment, whatever its status."""
    lines = [f"| {' | '.join(HEADER)} |", "| --- " * 6 + "| ---: " * 4 + "| --- |"]
    weights = {  # a cell that failed does not know them: they are its baseline's
        (r.experiment.model, r.experiment.dataset): r.experiment.weights
        for r in records
        if r.experiment.weights
    }
    for record in in_order(records):
        e = record.experiment
        cells = [
            e.model,
            e.dataset,
            weights.get((e.model, e.dataset)) or NONE,
            e.recipe_name,
            e.backend,
            f"`{record.status}`",
            *_figures(record),
            _why(record),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _figures(record: Record) -> list[str]:
    """Metric, drop, size and latency; dashes where there is no result."""
    if not record.ok:
        return [NONE] * 4
    size, latency = record.size.file_bytes, record.latency[0] if record.latency else None
    mark = "" if latency is None or latency.stable else "\\*"
    return [
        _metric(record.accuracy),
        _drop(record.accuracy),
        NONE if size is None else f"{size / MIB:.2f}",
        NONE if latency is None else f"{latency.p50_ms:.3g}{mark}",
    ]


def _metric(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return NONE
    value, low, high = accuracy.primary
    return f"{METRIC_NAMES[accuracy.metric]} {100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _drop(accuracy: Accuracy | None) -> str:
    if accuracy is None or accuracy.against_baseline is None:
        return NONE
    a = accuracy.against_baseline
    return f"{a.drop_pt:.1f} [{a.drop_low_pt:.1f}, {a.drop_high_pt:.1f}]"


def _why(record: Record) -> str:
    if record.error is None:
        return record.reasons.get("accuracy", "")
    text = record.error.message.splitlines()[0]
    return text.replace("|", "\\|").replace("<", "&lt;")


def lines(records: Sequence[Record]) -> list[str]:
    """The measured part of the page.

    Raises:
        ValueError: No record has a result.
    """
    if not any(record.ok for record in records):
        raise ValueError("none of these records has a result")
    good = sum(record.ok for record in records)
    sizes = sorted({x.batch_size for r in records if r.ok for x in r.latency[:1]})
    return [
        *(line for text in methods_paragraphs(records) for line in (plain(text), "")),
        f"{len(records)} cells, {good} of them with a result.",
        "",
        *table(records),
        "",
        "Brackets: 95 % interval; drop: on the same samples, paired, against the same backend's "
        f"`none`. ms: median of a call at batch {', '.join(map(str, sizes))}; `*`: unstable, or "
        "disturbed by other load.",
    ]


def make(folders: Sequence[Path], page: Path = PAGE) -> Path:
    """Write the page's measured part from all records below ``folders``.

    Raises:
        ValueError: There is nothing to show, or the page has no marks.
        DataError: A folder does not exist.
    """
    found = newest_found([pair for folder in folders for pair in find_records(folder)])
    put(page, lines([record for record, _ in found]))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    print(make(parser.parse_args().folders))
