"""The records of ``gpu_check.py`` in one file, and the table of docs/gpu.md from them alone."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from predecessors import NONE, put

from pqbench.core.record import FILE, Record
from pqbench.report.load import find_records, newest_found
from pqbench.report.names import backend_name, model_name, step_name


def keep_records(folder: Path, target: Path) -> int:
    """Zip every record below a folder, without the files beside it; how many there are.

    The same record may lie in a sweep and in the outputs that it found it in: one is kept.
    """
    paths = sorted(p for p in folder.rglob(FILE) if "cache" not in p.relative_to(folder).parts)
    seen: set[bytes] = set()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            content = path.read_bytes()
            if content not in seen:
                seen.add(content)
                archive.writestr(path.relative_to(folder).as_posix(), content)
    return len(seen)


def read_records(source: Path) -> list[Record]:
    """The newest record of each experiment in such a file.

    Raises:
        SystemExit: The file has a name that would leave its folder.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            target = Path(folder, name).resolve()
            if not target.is_relative_to(Path(folder).resolve()):
                raise SystemExit(f"gpu_check: {source} has a name outside of it: {name}")
        archive.extractall(folder)
        return [record for record, _ in newest_found(find_records(Path(folder)))]


def _number(value: float | None, form: str = ".3g") -> str:
    return NONE if value is None else format(value, form)


def _row(record: Record, sizes: Sequence[int]) -> list[str]:
    experiment, memory, energy = record.experiment, record.memory, record.energy
    recipe = " + ".join(step_name(s) for s in experiment.recipe) or "none"
    cells = [model_name(experiment.model), recipe, backend_name(experiment.backend)]
    if not record.ok:
        why = record.error.message if record.error else ""
        return [*cells, f"{record.status}: {why}", *[""] * (2 * len(sizes) + 4)]
    details = record.placement.details if record.placement else {}
    without = details.get("without_copies_ms", {})
    for size in sizes:
        latency = record.latency_at(size)
        shown = NONE
        if latency:
            star = "" if latency.stable else "*"
            shown = (
                f"{latency.p50_ms:.3g}{star} [{latency.p50_low_ms:.3g}, {latency.p50_high_ms:.3g}]"
            )
        cells += [shown, _number(without.get(str(size)))]
    allocator = _number(memory.vram_allocator_mb, ".0f")
    cells.append(f"{_number(memory.vram_driver_mb, '.0f')} ({allocator})")
    per_sample = energy.joules_per_sample
    cells.append(
        NONE
        if per_sample is None
        else f"{per_sample:.3f} [{_number(energy.low, '.3f')}, {_number(energy.high, '.3f')}]"
    )
    scored = record.accuracy if experiment.weights != "none" else None
    cells.append(NONE if scored is None else f"{100 * scored.top1:.1f}")
    cells.append(NONE if scored is None else _number(scored.macro_f1, ".3f"))
    return cells


def table(records: Iterable[Record]) -> list[str]:
    """Markdown lines: one row a record, batch sizes side by side."""
    kept = sorted(
        records, key=lambda r: (r.experiment.model, r.experiment.recipe, r.experiment.backend)
    )
    sizes = sorted({latency.batch_size for r in kept for latency in r.latency})
    head = ["model", "compression", "backend"]
    for size in sizes:
        head += [f"batch {size}, ms [95 %]", "without copies, ms"]
    head += ["VRAM by driver, MiB (allocator)", "J per sample [95 %]", "top-1, %", "macro F1"]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- |" + " ---: |" * (len(head) - 3)]
    return lines + ["| " + " | ".join(_row(r, sizes)) + " |" for r in kept]


def where(record: Record) -> str:
    """Card, commit and date of a record, in words."""
    git = record.environment.get("git", {})
    card = (record.environment.get("gpus") or [{}])[0]
    changed = " with uncommitted changes" if git.get("dirty") else ""
    commit = f"`{str(git.get('commit'))[:7]}`{changed}"
    return f"{card.get('name', 'GPU')}, commit {commit}, {record.created[:10]}"


def write_page(source: Path, page: Path) -> None:
    """Put the tables into the page, between its two marks: one for each card, commit and day."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(read_records(source), key=lambda r: r.created, reverse=True):
        groups.setdefault(where(record), []).append(record)
    lines: list[str] = []
    for measured, records in groups.items():
        lines += [f"Measured on: {measured}.", "", *table(records), ""]
    put(page, lines[:-1])
