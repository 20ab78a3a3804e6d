"""Write the measured part of a page in docs/predecessors, and its figure, from records alone.

The prose of a page is written by hand. What stands between its marks is replaced: above, the answer
and what it rests on; below, machine, table, cells without a result and why. The figure is one of
the report's own. Of DenseNet-121 results/benchmark_results.csv is written, too.

    python scripts/predecessors.py densenet outputs/sweeps/2026-11-24_10-00-00
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from predecessor_answer import ANSWER_BEGIN, ANSWER_END, answer, write_csv

from pqbench.core.record import Accuracy, Latency, Pairing, Record, Speedup
from pqbench.report import references
from pqbench.report.environments import record_key
from pqbench.report.load import find_records, newest_found
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import dataset_name
from pqbench.report.pairings import load_pairings
from pqbench.report.plots import save_plots
from pqbench.report.references import plain
from pqbench.report.render import plain_markdown
from pqbench.report.rows import ordered, recipe_labels
from pqbench.report.settings import HEADER, settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "predecessors"
CSV = ROOT / "results" / "benchmark_results.csv"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NONE = "\u2013"  # an en dash
MIB = 2**20


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        figures: Names of the report's figures; the first that could be drawn is taken.
        caption: What stands under it.
        facts: More lines, computed when the page is made.
        settings: Whether the table of settings and a file of references belong to it.
    """

    figures: tuple[str, ...]
    caption: str
    facts: Callable[[], list[str]] = list
    settings: bool = False


def densenet_masks() -> list[str]:
    """The sizes of a DenseNet-121 with and without the masks of ``torch.nn.utils.prune``."""
    import importlib

    import torch
    from torch.nn.utils import prune

    network = importlib.import_module("torchvision.models").densenet121()

    def size() -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.pth"
            torch.save(network.state_dict(), path)
            return path.stat().st_size / MIB

    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    steps = [("as built, FP32", size())]
    for module in convolutions:
        prune.l1_unstructured(module, "weight", amount=0.5)  # type: ignore[no-untyped-call]
    steps.append(("half of all convolution weights pruned, masks kept", size()))
    for module in convolutions:
        prune.remove(module, "weight")  # type: ignore[no-untyped-call]
    steps.append(("the same after `prune.remove`", size()))
    network.half()
    steps.append(("the same in half precision", size()))
    lines = ["### Where the larger file comes from", ""]
    lines += ["| state dict of DenseNet-121, random weights | MiB |", "| --- | ---: |"]
    return [*lines, *(f"| {name} | {value:.2f} |" for name, value in steps), ""]


SHOWN = {
    "onnx_file": Page(("speedup",), "Speedup against the file as it is."),
    "densenet": Page(("latency_batch",), "Time per sample by batch size.", densenet_masks),
    "techniques": Page(("latency_batch",), "Time per sample by batch size."),
    "runtimes": Page(("accuracy_latency", "latency_batch"), "Accuracy against latency."),
    "thesis": Page(
        ("accuracy_latency",), "Accuracy against latency, with the Pareto front.", settings=True
    ),
}


def measured(records: Sequence[Record], pairings: Sequence[Pairing] = ()) -> list[str]:
    """Methods, table, pairings, and what has no result, as lines of Markdown.

    Raises:
        ValueError: No record has a result.
    """
    records = ordered(records)
    if not any(record.ok for record in records):
        raise ValueError("none of these records has a result")
    labels = recipe_labels(records)
    methods = [plain(text) for text in methods_paragraphs(records)]
    return [
        *(line for text in methods for line in (text, "")),
        *_table(records, labels),
        "",
        *paired_lines(records, pairings),
        *_missing(records, labels),
    ]


def settings_lines(records: Sequence[Record], page: Path) -> list[str]:
    """Every setting with its value; the works that the methods rest on go to a file beside it."""
    cited = references.keys_in(methods_paragraphs(records))
    bib = page.with_suffix(".bib")
    bib.write_text(references.bibtex(cited), encoding="utf-8")
    table = [(x.step, x.name, x.value) for x in settings(records)]
    return [
        "### Settings",
        "",
        *plain_markdown(HEADER, table).splitlines(),
        "",
        f"The {len(cited)} works that tools, models, data and methods rest on, in BibTeX: "
        f"[{bib.name}]({bib.name}).",
        "",
    ]


def _table(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    good = [(r, name) for r, name in zip(records, labels, strict=True) if r.ok]
    sizes = sorted({x.batch_size for r, _ in good for x in r.latency})
    gains = sorted({min(sizes), max(sizes)})
    scored = any(_scored(r) for r, _ in good)
    vram = any(r.memory.vram_driver_mb is not None for r, _ in good)
    several = len({r.experiment.dataset for r, _ in good}) > 1
    header = ["model", *(["data"] if several else []), "backend", "recipe"]
    words = len(header)
    header += [f"ms per sample, batch {b}" for b in sizes]
    header += [f"speedup, batch {b}" for b in gains]
    header += ["file MiB", "zipped MiB", "RSS MiB", *(["VRAM MiB"] if vram else [])]
    areas = any(r.accuracy is not None and r.accuracy.metric == "miou" for r, _ in good)
    share = "top-1 % (mIoU of segmentation)" if areas else "top-1 %"
    header += [share, "macro F1", "drop pt"] if scored else []
    clean = any(r.accuracy_clean for r, _ in good)
    header += ["top-1 %, clean", "drop pt, clean"] if clean else []
    lines = [
        f"| {' | '.join(header)} |",
        "| --- " * words + "| ---: " * (len(header) - words) + "|",
    ]
    for record, name in good:
        asked = record.experiment
        cells = [asked.model, *([dataset_name(asked.dataset)] if several else [])]
        cells += [asked.backend, name.replace("|", "\\|")]
        cells += [_ms(record.latency_at(b)) for b in sizes]
        cells += [_gain(record, b) for b in gains]
        cells += [_mib(record.size.file_bytes), _mib(record.size.zipped_bytes)]
        cells += [_number(record.memory.rss_peak_mb, 0)]
        cells += [_number(record.memory.vram_driver_mb, 0)] if vram else []
        cells += _accuracy(record, record.accuracy) if scored else []
        cells += _accuracy(record, record.accuracy_clean, f1=False) if clean else []
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Brackets: 95 % interval. Speedup: against the same backend's baseline, in alternating "
        "blocks. `*`: unstable or disturbed by other load. RSS: peak of the whole process at "
        f"batch {min(sizes)}. "
        + ("Clean: on the images that no pretraining saw. " if clean else "")
        + ("Drop: on the same samples, paired." if scored else _why_unscored(good[0][0])),
    ]
    return lines


def paired_lines(records: Sequence[Record], pairings: Sequence[Pairing]) -> list[str]:
    """Finalists timed beside what runs today: ratios of one run, unlike those of two medians."""
    labels = recipe_labels(records)
    by_name = {r.fingerprint: (r, name) for r, name in zip(records, labels, strict=True) if r.ok}
    known = [p for p in pairings if p.speedup and {p.candidate, p.reference} <= by_name.keys()]
    if not known:
        return []
    sizes = sorted({x.batch_size for p in known for x in p.speedup})
    several = len({by_name[p.candidate][0].experiment.dataset for p in known}) > 1
    header = ["model", *(["data"] if several else []), "backend", "recipe", "beside"]
    lines = [
        "### Timed beside what runs today",
        "",
        "The answer's ratios are these: candidate and reference took turns in a run of their own. "
        "Two medians of the table above are of different runs; their ratio may differ from these.",
        "",
        f"| {' | '.join([*header, *(f'times as fast, batch {b}' for b in sizes)])} |",
        "| --- " * len(header) + "| ---: " * len(sizes) + "|",
    ]
    order = list(by_name)
    for pairing in sorted(known, key=lambda p: order.index(p.candidate)):
        record, name = by_name[pairing.candidate]
        asked, beside = record.experiment, by_name[pairing.reference][0].experiment.backend
        cells = [asked.model, *([dataset_name(asked.dataset)] if several else [])]
        cells += [asked.backend, name.replace("|", "\\|"), beside]
        gains = {x.batch_size: x for x in pairing.speedup}
        cells += [_times(gains.get(b)) for b in sizes]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _missing(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """Cells without a result, those of one reason together."""
    causes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record, name in zip(records, labels, strict=True):
        if record.error is None:
            continue
        e = record.experiment
        cause = (record.status, record.error.message.splitlines()[0])
        causes[cause].append(f"{e.model} · {name} · {e.backend}")
    if not causes:
        return []
    lines = ["### Cells without a result", "", "| status | why | cells |", "| --- | --- | --- |"]
    for (status, why), cells in causes.items():
        shown = ", ".join(cells[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")
        text = why.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{status}` | {text} | {shown} |")
    return [*lines, ""]


def _scored(record: Record) -> bool:
    return record.accuracy is not None and record.experiment.weights != "none"


def _why_unscored(record: Record) -> str:
    reason = record.reasons.get("accuracy", "random weights (weights=none)")
    return f"Accuracy is null: {reason}."


def _ms(latency: Latency | None) -> str:
    if latency is None:
        return NONE
    values = [x / latency.batch_size for x in (latency.p50_low_ms, latency.p50_high_ms)]
    mark = "" if latency.stable else "\\*"
    return f"{latency.ms_per_sample:.3g}{mark} [{values[0]:.3g}, {values[1]:.3g}]"


def _gain(record: Record, batch_size: int) -> str:
    speedup = record.speedup_at(batch_size)
    if speedup is None and record.is_baseline and record.latency_at(batch_size):
        return "1"
    return _times(speedup)


def _times(speedup: Speedup | None) -> str:
    if speedup is None:
        return NONE
    mark = "\\*" if speedup.disturbed else ""
    return f"{speedup.ratio:.2f}{mark} [{speedup.low:.2f}, {speedup.high:.2f}]"


def _accuracy(record: Record, accuracy: Accuracy | None, f1: bool = True) -> list[str]:
    if accuracy is None or not _scored(record):
        return [NONE] * (2 + f1)
    against = accuracy.against_baseline
    drop = (
        f"{against.drop_pt:.1f} [{against.drop_low_pt:.1f}, {against.drop_high_pt:.1f}]"
        if against
        else NONE
    )
    return [f"{100 * accuracy.primary[0]:.1f}", *([f"{accuracy.macro_f1:.3f}"] if f1 else []), drop]


def _mib(value: int | None) -> str:
    return NONE if value is None else f"{value / MIB:.2f}"


def _number(value: float | None, decimals: int) -> str:
    return NONE if value is None else f"{value:.{decimals}f}"


def put(page: Path, lines: Sequence[str], marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Replace what stands between two marks of a page.

    Raises:
        ValueError: The page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"{page} has no {marks[0]} and {marks[1]}")
    body = "\n".join(["", "", *lines]).rstrip("\n")
    page.write_text(f"{head}{begin}{body}\n\n{end}{tail}", encoding="utf-8")


def make(
    name: str,
    folders: Sequence[Path],
    pages: Path = PAGES,
    table: Path = CSV,
    max_drop_pt: float | None = None,
) -> Path:
    """Write one page's answer, its measured part and its figure.

    Args:
        name: Of :data:`SHOWN`; the page ``NAME.md`` exists.
        folders: Runs or sweeps; of one experiment in one environment the newest record counts.
        pages: Folder of the pages.
        table: Where DenseNet-121's table is written, too, as CSV.
        max_drop_pt: Points that may be lost, for the answer; None: as the records were asked.

    Raises:
        ValueError: There is nothing to show, or the page has no marks.
        DataError: A folder does not exist.
    """
    found = newest_found([pair for folder in folders for pair in find_records(folder)])
    records = [record for record, _ in found]
    paired = [pairing for folder in folders for pairing in load_pairings(folder, records)]
    lines = measured(records, paired)
    shown = SHOWN[name]
    with tempfile.TemporaryDirectory() as scratch:
        where = {record_key(record): folder for record, folder in found}
        drawn = {p.stem: p for p in save_plots(records, Path(scratch), where) if p.suffix == ".png"}
        figure = next((drawn[f] for f in shown.figures if f in drawn), None)
        if figure is not None:
            shutil.copyfile(figure, pages / f"{name}.png")
            lines = [f"![{shown.caption}]({name}.png)", "", shown.caption, "", *lines]
    page = pages / f"{name}.md"
    put(page, answer(records, folders, max_drop_pt), (ANSWER_BEGIN, ANSWER_END))
    told = settings_lines(ordered(records), page) if shown.settings else []
    put(page, [*lines, *shown.facts(), *told])
    if name == "densenet":
        write_csv(ordered(records), table)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(SHOWN))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--max-drop-pt", type=float, help="points that may be lost")
    given = parser.parse_args()
    print(make(given.name, given.folders, max_drop_pt=given.max_drop_pt))


if __name__ == "__main__":
    main()
