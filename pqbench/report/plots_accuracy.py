"""Accuracy against a cost: the Pareto front, error bars, and other models as reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pqbench.report.rows import BASELINE, Estimate, Row, metric_name
from pqbench.report.style import (
    Box,
    Look,
    crowded,
    enough,
    label_free,
    legend,
    panels,
    reach,
    scale,
    span,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 20  # of one panel
MAX_REFERENCES = 6


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


def _places(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(place_of(r) for r in rows))


def place_of(row: Row) -> tuple[str, str, str]:
    """Model, data set and environment: what a panel is of."""
    return row.model, row.dataset, row.machine


def _title(place: tuple[str, str, str], places: Sequence[tuple[str, str, str]]) -> str:
    """Model and data set, and the environment if there are several."""
    many = len({p[2] for p in places}) > 1
    return " · ".join(place[:2]) + (f"\n{place[2]}" if many else "")


_Point = tuple[float, float]


def accuracy_against(
    rows: Sequence[Row],
    look: Look,
    x_of: Callable[[Row], Estimate | None],
    label: str,
    note: str,
    max_panels: int,
    compete: Callable[[Row], str] = lambda _: "",
) -> Figure:
    """Accuracy over a cost, a panel per model; other models' baselines in grey as reference.

    Args:
        rows: Experiments with an accuracy and a cost.
        look: Colours and markers, the same in all figures of a report.
        x_of: The cost of a row, with its interval.
        label: What it is, with its unit.
        note: What the figure says below itself; more is added.
        max_panels: Models beyond so many are counted in the note.
        compete: Rows of which this is equal share a Pareto front.
    """
    places, note = enough(_places(rows), max_panels, "panels", note)
    figure, axes = panels(len(places), 3.6, 3.2)
    named: list[tuple[Axes, list[_Point], list[tuple[str, _Point]]]] = []
    values = {p: _costs([r for r in rows if place_of(r) == p], x_of) for p in places}
    stepped = False
    drawn: list[Row] = []
    log = any(map(crowded, values.values()))  # all panels alike
    for ax, place in zip(axes, places, strict=True):
        points: list[_Point] = []
        fronts: dict[str, list[_Point]] = {}
        for row in _chosen([r for r in rows if place_of(r) == place], x_of):
            x, y = x_of(row), row.score_pct
            if x is None or y is None:
                continue
            drawn.append(row)
            if not row.faults:  # what lost a class is on no front
                points.append((x.value, y.value))
            if not row.faults:  # a model that lost a class is on no front
                fronts.setdefault(compete(row), []).append((x.value, y.value))
            colour = look.colour(row.recipe)
            ax.errorbar(x.value, y.value, xerr=reach(x),
                        yerr=reach(y), color=colour,
                        elinewidth=0.8, capsize=2, linestyle="none", zorder=2)  # fmt: skip
            ax.plot(x.value, y.value, marker=look.marker(row.recipe), color=colour, markersize=7,
                    zorder=3, **look.fill(row.backend))  # fmt: skip
        for front in map(pareto_front, fronts.values()):
            if len(front) > 1:
                stepped = True
                xs, ys = zip(*front, strict=True)
                ax.step(xs, ys, where="post", color="#999999", linestyle="--", lw=1, zorder=1)
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
    if any(count > MAX_POINTS for count in Counter(place_of(r) for r in rows).values()):
        note += f" {MAX_POINTS} experiments per panel at most, the Pareto front first."
    if any(others for _, _, others in named):
        note += " Grey: other models, uncompressed, each on its fastest backend."
    legend(figure, look, {r.recipe for r in drawn}, {r.backend for r in drawn}, note, stepped)
    for ax, points, others in named:
        labels: list[Box] = []
        for name, at in others:
            label_free(ax, name, at, [*points, *(p for n, p in others if n != name)], labels)
    return figure


def _costs(rows: Sequence[Row], x_of: Callable[[Row], Estimate | None]) -> list[float]:
    """What the axis must show of them."""
    estimates = [x for row in _chosen(rows, x_of) if (x := x_of(row)) and row.score_pct]
    return [end for x in estimates for end in span(x)]


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
        (x.value, r.score_pct.value) if (x := x_of(r)) and r.score_pct and not r.faults else None
        for r in rows
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
