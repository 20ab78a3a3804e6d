"""Figures from records alone: accuracy against latency, speedup, latency by batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pqbench.core.record import Record
from pqbench.report import scaling
from pqbench.report.footnotes import batch_field
from pqbench.report.names import backend_name, in_print
from pqbench.report.plots_accuracy import MAX_POINTS, accuracy_against, place_of
from pqbench.report.plots_raw import raw_figures
from pqbench.report.rows import (
    BASELINE,
    Estimate,
    Row,
    batch_sizes,
    make_rows,
    natural,
    ordered,
)
from pqbench.report.style import (
    FONTS,
    STYLE,
    Look,
    enough,
    legend,
    legend_below,
    panels,
    reach,
    scale,
    span,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "////")
MAX_PANELS = 6  # of one figure; what does not fit is counted in its note
MAX_BARS = 40


def save_plots(
    records: Sequence[Record],
    folder: Path,
    folders: Mapping[tuple[str, str], Path] = MappingProxyType({}),
    font: str = "serif",
    rows: Sequence[Row] | None = None,
) -> list[Path]:
    """Draw every figure for which there are values, as PNG and PDF.

    Args:
        records: Any records; those without a result are counted in a note, not drawn.
        folder: Where the files go; it must exist.
        folders: Where each record lies, by :func:`pqbench.report.environments.record_key`: the
            figures of raw samples need the files beside it.
        font: ``serif`` as in a thesis, or ``sans``.
        rows: Of these records, in reading order, where they were made already.

    Returns:
        The files written.
    """
    import matplotlib as mpl

    if rows is None:
        records = ordered(records)
        rows = make_rows(records)
    rows = [_printed(row) for row in rows]
    recipes = dict.fromkeys(sorted((r.recipe for r in rows), key=_recipe_order))
    look = Look(tuple(recipes), tuple(sorted({r.backend for r in rows})))
    written = []
    with mpl.rc_context({**STYLE, **FONTS[font]}):
        drawn = chain(_figures(rows, look), raw_figures(records, rows, look, folders, MAX_PANELS))
        for name, figure in drawn:
            frame = figure.get_tightbbox().padded(0.08)
            for suffix in (".png", ".pdf"):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, bbox_inches=frame)
                written.append(path)
    return written


def _printed(row: Row) -> Row:
    """With recipe and runtime as they are called in print."""
    recipe = in_print(row.recipe).replace(" + ", "+")
    return replace(row, recipe=recipe, backend=backend_name(row.backend))


def _recipe_order(recipe: str) -> tuple[bool, int, list[tuple[float, str]]]:
    return (recipe != BASELINE, recipe.count("+"), natural(recipe))


def _figures(rows: Sequence[Row], look: Look) -> Iterator[tuple[str, Figure]]:
    good = [row for row in rows if row.status == "ok"]
    sizes = batch_sizes(rows)
    if not sizes:
        return
    batches = (sizes[0], sizes[-1])
    missing = len(rows) - len(good)
    note = "Error bars: 95 % intervals."
    if missing:
        note += f" Not shown: {missing} of {len(rows)} experiments, without a result."
    scored = [row for row in good if row.score_pct]
    timed = [row for row in scored if batches[0] in row.latency_ms]
    if timed:
        label = f"median latency at batch {batches[0]} [ms]"
        yield (
            "accuracy_latency",
            accuracy_against(
                timed,
                look,
                lambda r: r.latency_ms.get(batches[0]),
                label,
                note,
                MAX_PANELS,
                lambda r: r.backend,
            ),
        )
    sized = [row for row in scored if row.size_mb]
    if sized:
        label = "size of the deployed files [MiB]"
        yield "accuracy_size", accuracy_against(sized, look, _size, label, note, MAX_PANELS)
    faster = [row for row in good if any(size in row.speedups for size in batches)]
    if faster:
        yield "speedup", _speedup_bars(faster, batches, note)
    if batches[0] != batches[1]:
        yield "latency_batch", _latency_batch([r for r in good if r.per_sample_ms], look, note)
    yield from scaling.figures(good, MAX_PANELS)


def _size(row: Row) -> Estimate | None:
    return None if row.size_mb is None else Estimate(row.size_mb, row.size_mb, row.size_mb)


def _speedup_bars(rows: Sequence[Row], batches: tuple[int, int], note: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = [(batches[0], "#0072B2"), (batches[1], "#B9D9EC")]
    shown = shown if batches[0] != batches[1] else shown[:1]
    many = len({(r.dataset, r.machine) for r in rows}) > 1
    rows, note = enough(rows, MAX_BARS, "bars", note)
    places = []
    for row in rows:
        place = [row.model, row.backend, *([row.dataset, row.machine] if many else [])]
        places.append(" · ".join(p for p in place if p))
    alike = len(set(places)) == 1
    line = 0.32 if alike and len(shown) == 1 else 0.52
    figure = Figure(figsize=(6.4, 1.1 + line * len(rows)))
    ax = figure.subplots()
    height = 0.8 / len(shown)
    top = 1.0
    for index, row in enumerate(rows):
        for k, (size, colour) in enumerate(shown):
            value = row.speedups.get(size)
            if value is None:
                continue
            y = index + (k - (len(shown) - 1) / 2) * height
            ax.barh(y, value.value, height * 0.92, color=colour, edgecolor="black",
                    linewidth=0.5, hatch=_HATCHES[k])  # fmt: skip
            ax.errorbar(value.value, y, xerr=reach(value), color="black", elinewidth=1,
                        capsize=2.5, linestyle="none")  # fmt: skip
            mark = " (disturbed)" if batch_field("speedup", size) in row.untrusted else ""
            ax.annotate(f"{value.value:.2f}{mark}", (value.high, y), (5, 0), fontsize=7.5,
                        textcoords="offset points", va="center",
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
            top = max(top, value.high)
    ax.axvline(1, color="black", linewidth=1)
    names = [row.recipe.replace("+", " + ") for row in rows]
    if alike:
        ax.set_title(places[0])
    else:
        names = [f"{name}\n{place}" for name, place in zip(names, places, strict=True)]
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, top * 1.14)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("speedup against the same backend's baseline [x]; 1 = as fast")
    handles = [
        Patch(
            facecolor=colour,
            edgecolor="black",
            linewidth=0.5,
            hatch=_HATCHES[k],
            label=f"batch {b}",
        )
        for k, (b, colour) in enumerate(shown)
    ]
    legend_below(figure, handles, 2, note)
    return figure


def _latency_batch(rows: Sequence[Row], look: Look, note: str) -> Figure:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    every = list(dict.fromkeys((r.model, r.dataset, r.backend, r.machine) for r in rows))
    several = [i for i in (1, 3) if len({p[i] for p in every}) > 1]
    places, note = enough(every, MAX_PANELS, "panels", note)
    figure, axes = panels(len(places), 3.1, 2.7)
    recipes: set[str] = set()
    for ax, place in zip(axes, places, strict=True):
        sizes: set[int] = set()
        here = [r for r in rows if (r.model, r.dataset, r.backend, r.machine) == place]
        recipes |= {row.recipe for row in here[:MAX_POINTS]}
        for row in here[:MAX_POINTS]:
            b = sorted(row.per_sample_ms)
            values = [row.per_sample_ms[size] for size in b]
            bars = [reach(value) for value in values]
            ax.errorbar(b, [v.value for v in values],
                        yerr=[[bar[0][0] for bar in bars], [bar[1][0] for bar in bars]],
                        marker=look.marker(row.recipe), markersize=5,
                        color=look.colour(row.recipe), linewidth=1, elinewidth=0.8,
                        linestyle=look.line(row.recipe), capsize=2)  # fmt: skip
            sizes |= set(b)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sorted(sizes)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(ScalarFormatter())
        of_model = [
            end
            for row in rows
            if (row.model, row.dataset) == place[:2]  # one scale, so that backends compare
            for value in row.per_sample_ms.values()
            for end in span(value)
        ]
        scale(ax, "y", of_model)
        ax.set_title(" · ".join(place[i] for i in (0, 2, *several)))
        ax.set_xlabel("batch size")
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel("latency per sample [ms]")
    if any(count > MAX_POINTS for count in Counter(place_of(r) for r in rows).values()):
        note += f" {MAX_POINTS} recipes per panel at most."
    legend(figure, look, recipes, set(), note)
    return figure
