"""Figures from records alone: accuracy against latency, speedup, latency by batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.record import Record
from pqbench.report.rows import (
    BASELINE,
    Row,
    batch_range,
    machine,
    make_rows,
    ordered,
    recipe_labels,
)
from pqbench.report.style import STYLE, Look, legend, legend_below, panels, reach, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HATCHES = ("", "////")


def save_plots(records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw every figure for which there are values, as PNG and PDF.

    Args:
        records: Any records; those without a result are counted in a note, not drawn.
        folder: Where the files go; it must exist.

    Returns:
        The files written.
    """
    import matplotlib as mpl

    rows = make_rows(records)
    recipes = dict.fromkeys(sorted((r.recipe for r in rows), key=_recipe_order))
    look = Look(tuple(recipes), tuple(sorted({r.backend for r in rows})))
    written = []
    with mpl.rc_context(STYLE):
        for name, figure in _figures(records, rows, look):
            for suffix in (".png", ".pdf"):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, bbox_inches="tight")
                written.append(path)
    return written


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other beats: a lower first value and a higher second are better.

    Returns:
        The front, by rising first value.
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _recipe_order(recipe: str) -> tuple[bool, int, str]:
    return (recipe != BASELINE, recipe.count("+"), recipe)


def _figures(
    records: Sequence[Record], rows: Sequence[Row], look: Look
) -> Iterator[tuple[str, Figure]]:
    good = [row for row in rows if row.status == "ok"]
    batches = batch_range(records)
    if batches is None:
        return
    missing = len(rows) - len(good)
    note = "Error bars: 95 % intervals."
    if missing:
        note += f" Not shown: {missing} of {len(rows)} experiments, without a result."
    scored = [row for row in good if row.top1_pct and row.p50_ms]
    if scored:
        yield "accuracy_latency", _accuracy_latency(scored, look, batches[0], note)
    faster = [row for row in good if row.speedup_first or row.speedup_last]
    if faster:
        yield "speedup", _speedup_bars(faster, batches, note)
    if batches[0] != batches[1]:
        yield "latency_batch", _latency_batch([r for r in records if r.ok], look, note)


def _places(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys((r.model, r.dataset, r.machine) for r in rows))


def _title(place: tuple[str, str, str], places: Sequence[tuple[str, str, str]]) -> str:
    """Model and data set, and the machine if there are several."""
    many = len({p[2] for p in places}) > 1
    return " · ".join(place[:3] if many else place[:2])


def _accuracy_latency(rows: Sequence[Row], look: Look, batch: int, note: str) -> Figure:
    places = _places(rows)
    figure, axes = panels(len(places), 3.6, 3.2)
    for ax, place in zip(axes, places, strict=True):
        here = [r for r in rows if (r.model, r.dataset, r.machine) == place]
        points = []
        for row in here:
            x, y = row.p50_ms, row.top1_pct
            if x is None or y is None:
                continue
            points.append((x.value, y.value))
            colour = look.colour(row.recipe)
            ax.errorbar(x.value, y.value, xerr=reach(x),
                        yerr=reach(y), color=colour,
                        elinewidth=0.8, capsize=2, linestyle="none", zorder=2)  # fmt: skip
            ax.plot(x.value, y.value, marker=look.marker(row.recipe), color=colour, markersize=7,
                    zorder=3, **look.fill(row.backend))  # fmt: skip
        front = pareto_front(points)
        if len(front) > 1:
            xs, ys = zip(*front, strict=True)
            ax.step(xs, ys, where="post", color="#999999", linestyle="--", linewidth=1, zorder=1)
        scale(ax, "x", [x for x, _ in points])
        ax.margins(y=0.08)
        ax.set_title(_title(place, places))
        ax.set_xlabel(f"median latency at batch {batch} [ms]")
    axes[0].set_ylabel("top-1 accuracy [%]")
    legend(figure, look, {r.recipe for r in rows}, {r.backend for r in rows}, note, True)
    return figure


def _speedup_bars(rows: Sequence[Row], batches: tuple[int, int], note: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = [("speedup_first", batches[0], "#0072B2"), ("speedup_last", batches[1], "#B9D9EC")]
    shown = shown if batches[0] != batches[1] else shown[:1]
    many = len({(r.dataset, r.machine) for r in rows}) > 1
    figure = Figure(figsize=(6.4, 1.1 + 0.52 * len(rows)), layout="constrained")
    ax = figure.subplots()
    height = 0.8 / len(shown)
    top = 1.0
    for index, row in enumerate(rows):
        for k, (name, _, colour) in enumerate(shown):
            value = getattr(row, name)
            if value is None:
                continue
            y = index + (k - (len(shown) - 1) / 2) * height
            ax.barh(y, value.value, height * 0.92, color=colour, edgecolor="black",
                    linewidth=0.5, hatch=_HATCHES[k])  # fmt: skip
            ax.errorbar(value.value, y, xerr=reach(value), color="black", elinewidth=1,
                        capsize=2.5, linestyle="none")  # fmt: skip
            mark = " (disturbed)" if name in row.untrusted else ""
            ax.annotate(f"{value.value:.2f}{mark}", (value.high, y), (5, 0), fontsize=7.5,
                        textcoords="offset points", va="center",
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
            top = max(top, value.high)
    ax.axvline(1, color="black", linewidth=1)
    names = []
    for row in rows:
        place = [row.model, row.backend, *([row.dataset, row.machine] if many else [])]
        names.append(f"{row.recipe.replace('+', ' + ')}\n{' · '.join(p for p in place if p)}")
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
        for k, (_, b, colour) in enumerate(shown)
    ]
    legend_below(figure, handles, 2, note)
    return figure


def _latency_batch(records: Sequence[Record], look: Look, note: str) -> Figure:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    records = ordered(records)
    labels = recipe_labels(records)
    keys = [
        (r.experiment.model, r.experiment.dataset, r.experiment.backend, machine(r))
        for r in records
    ]
    places = list(dict.fromkeys(keys))
    figure, axes = panels(len(places), 3.1, 2.7)
    for ax, place in zip(axes, places, strict=True):
        sizes: set[int] = set()
        for record, label, key in zip(records, labels, keys, strict=True):
            if key != place or not record.latency:
                continue
            points = sorted(record.latency, key=lambda x: x.batch_size)
            b = [x.batch_size for x in points]
            y = [x.p50_ms / x.batch_size for x in points]
            low = [max(0.0, x.p50_ms - x.p50_low_ms) / x.batch_size for x in points]
            high = [max(0.0, x.p50_high_ms - x.p50_ms) / x.batch_size for x in points]
            ax.errorbar(b, y, yerr=[low, high], marker=look.marker(label), markersize=5,
                        color=look.colour(label), linewidth=1, elinewidth=0.8,
                        capsize=2)  # fmt: skip
            sizes |= set(b)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sorted(sizes)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(ScalarFormatter())
        of_model = [
            latency.p50_ms / latency.batch_size
            for record, key in zip(records, keys, strict=True)
            for latency in record.latency
            if key[:2] == place[:2]  # one scale for a model, so that its backends compare
        ]
        scale(ax, "y", of_model)
        shown = (0, 2, *(i for i in (1, 3) if len({p[i] for p in places}) > 1))
        ax.set_title(" · ".join(place[i] for i in shown))
        ax.set_xlabel("batch size")
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel("latency per sample [ms]")
    legend(figure, look, set(labels), set(), note)
    return figure
