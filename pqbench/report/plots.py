"""Figures from records alone: accuracy against latency, speedup, latency by batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pqbench.record import Record
from pqbench.report.plots_raw import raw_figures
from pqbench.report.rows import (
    BASELINE,
    Estimate,
    Row,
    batch_range,
    make_rows,
    metric_name,
    ordered,
)
from pqbench.report.style import (
    FONTS,
    STYLE,
    Box,
    Look,
    crowded,
    enough,
    label_free,
    legend,
    legend_below,
    panels,
    reach,
    scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "////")
MAX_PANELS = 6  # of one figure; what does not fit is counted in its note
MAX_BARS = 40
MAX_POINTS = 20  # of one panel
MAX_REFERENCES = 6


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
    recipes = dict.fromkeys(sorted((r.recipe for r in rows), key=_recipe_order))
    look = Look(tuple(recipes), tuple(sorted({r.backend for r in rows})))
    written = []
    with mpl.rc_context({**STYLE, **FONTS[font]}):
        drawn = chain(
            _figures(records, rows, look), raw_figures(records, rows, look, folders, MAX_PANELS)
        )
        for name, figure in drawn:
            figure.draw_without_rendering()  # lay it out once, not once per file
            figure.set_layout_engine("none")
            frame = figure.get_tightbbox().padded(0.08)
            for suffix in (".png", ".pdf"):
                path = folder / f"{name}{suffix}"
                figure.savefig(path, bbox_inches=frame)
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
    scored = [row for row in good if row.score_pct]
    timed = [row for row in scored if row.p50_ms]
    if timed:
        label = f"median latency at batch {batches[0]} [ms]"
        yield "accuracy_latency", _accuracy_against(timed, look, lambda r: r.p50_ms, label, note)
    sized = [row for row in scored if row.size_mb]
    if sized:
        label = "size of the deployed files [MiB]"
        yield "accuracy_size", _accuracy_against(sized, look, _size, label, note)
    faster = [row for row in good if row.speedup_first or row.speedup_last]
    if faster:
        yield "speedup", _speedup_bars(faster, batches, note)
    if batches[0] != batches[1]:
        yield "latency_batch", _latency_batch([r for r in good if r.per_sample_ms], look, note)


def _size(row: Row) -> Estimate | None:
    return None if row.size_mb is None else Estimate(row.size_mb, row.size_mb, row.size_mb)


def _places(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(_place(r) for r in rows))


def _place(row: Row) -> tuple[str, str, str]:
    return row.model, row.dataset, row.machine


def _title(place: tuple[str, str, str], places: Sequence[tuple[str, str, str]]) -> str:
    """Model and data set, and the environment if there are several."""
    many = len({p[2] for p in places}) > 1
    return " · ".join(place[:2]) + (f"\n{place[2]}" if many else "")


_Point = tuple[float, float]


def _accuracy_against(
    rows: Sequence[Row], look: Look, x_of: Callable[[Row], Estimate | None], label: str, note: str
) -> Figure:
    """Accuracy over a cost, a panel per model; other models' baselines in grey as reference."""
    places, note = enough(_places(rows), MAX_PANELS, "panels", note)
    figure, axes = panels(len(places), 3.6, 3.2)
    named: list[tuple[Axes, list[_Point], list[tuple[str, _Point]]]] = []
    values = {p: _costs([r for r in rows if _place(r) == p], x_of) for p in places}
    log = any(map(crowded, values.values()))  # all panels alike
    for ax, place in zip(axes, places, strict=True):
        points: list[_Point] = []
        for row in _chosen([r for r in rows if _place(r) == place], x_of):
            x, y = x_of(row), row.score_pct
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
        others = _references(rows, place, x_of)
        for _, (x_value, y_value) in others:
            ax.plot(x_value, y_value, marker="+", color="#777777", markersize=7, zorder=1)
        scale(ax, "x", [*values[place], *(x_value for _, (x_value, _) in others)], log)
        ax.margins(y=0.08)
        ax.set_ylim(ax.get_ylim())  # settled, for the labels
        named.append((ax, points, others))
        ax.set_title(_title(place, places))
        ax.set_xlabel(label)
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel(_accuracy_label(rows))
    if any(count > MAX_POINTS for count in Counter(_place(r) for r in rows).values()):
        note += f" {MAX_POINTS} experiments per panel at most, the Pareto front first."
    if any(others for _, _, others in named):
        note += " Grey: other models, uncompressed, each on its fastest backend."
    legend(figure, look, {r.recipe for r in rows}, {r.backend for r in rows}, note, True)
    figure.draw_without_rendering()  # the panels get their size
    for ax, points, others in named:
        labels: list[Box] = []
        for name, at in others:
            label_free(ax, name, at, [*points, *(p for n, p in others if n != name)], labels)
    return figure


def _costs(rows: Sequence[Row], x_of: Callable[[Row], Estimate | None]) -> list[float]:
    """What the axis must show of them."""
    estimates = [x for row in _chosen(rows, x_of) if (x := x_of(row)) and row.score_pct]
    return [end for x in estimates for end in _span(x)]


def _span(x: Estimate) -> tuple[float, float, float]:
    """A positive value and its ends, no further than half and twice the value."""
    return max(x.low, x.value / 2), x.value, min(x.high, 2 * x.value)


def _accuracy_label(rows: Sequence[Row]) -> str:
    name = metric_name(rows)
    return {"top-1": "top-1 accuracy [%]", "accuracy": "accuracy (segmentation: mIoU) [%]"}.get(
        name, f"{name} [%]"
    )


def _chosen(rows: Sequence[Row], x_of: Callable[[Row], Estimate | None]) -> Sequence[Row]:
    """As many as one panel can show: the Pareto front, then the others in order."""
    if len(rows) <= MAX_POINTS:
        return rows
    points = [
        (x.value, r.score_pct.value) if (x := x_of(r)) and r.score_pct else None for r in rows
    ]
    front = set(pareto_front([p for p in points if p is not None]))
    order = sorted(range(len(rows)), key=lambda i: (points[i] not in front, i))[:MAX_POINTS]
    return [rows[i] for i in sorted(order)]


def _references(
    rows: Sequence[Row], place: tuple[str, str, str], x_of: Callable[[Row], Estimate | None]
) -> list[tuple[str, tuple[float, float]]]:
    """Baselines of the other models of this data set and environment, each where it costs least."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows:
        x, y = x_of(row), row.score_pct
        same = (row.dataset, row.machine) == place[1:] and row.model != place[0]
        if not same or not row.recipe.startswith(BASELINE) or x is None or y is None:
            continue
        best[row.model] = min(best.get(row.model, (x.value, y.value)), (x.value, y.value))
    return sorted(best.items())[:MAX_REFERENCES]


def _speedup_bars(rows: Sequence[Row], batches: tuple[int, int], note: str) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = [("speedup_first", batches[0], "#0072B2"), ("speedup_last", batches[1], "#B9D9EC")]
    shown = shown if batches[0] != batches[1] else shown[:1]
    many = len({(r.dataset, r.machine) for r in rows}) > 1
    rows, note = enough(rows, MAX_BARS, "bars", note)
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


def _latency_batch(rows: Sequence[Row], look: Look, note: str) -> Figure:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    every = list(dict.fromkeys((r.model, r.dataset, r.backend, r.machine) for r in rows))
    several = [i for i in (1, 3) if len({p[i] for p in every}) > 1]
    places, note = enough(every, MAX_PANELS, "panels", note)
    figure, axes = panels(len(places), 3.1, 2.7)
    for ax, place in zip(axes, places, strict=True):
        sizes: set[int] = set()
        here = [r for r in rows if (r.model, r.dataset, r.backend, r.machine) == place]
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
            for end in _span(value)
        ]
        scale(ax, "y", of_model)
        ax.set_title(" · ".join(place[i] for i in (0, 2, *several)))
        ax.set_xlabel("batch size")
        spec = ax.get_subplotspec()
        if spec is not None and spec.is_first_col():
            ax.set_ylabel("latency per sample [ms]")
    if any(count > MAX_POINTS for count in Counter(_place(r) for r in rows).values()):
        note += f" {MAX_POINTS} recipes per panel at most."
    legend(figure, look, {r.recipe for r in rows}, set(), note)
    return figure
