"""How the figures look: palette, markers, panels, axes and legends.

A recipe has one marker and one colour in all figures (Okabe and Ito's palette, which colour-blind
readers can tell apart); a backend is told by the marker's filling, so that a greyscale print loses
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pqbench.report.rows import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">", "*")
_FILLS = ("full", "none", "left", "right", "top", "bottom")

_LINES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MAX_NAMES = 24  # recipes in a legend
_LEGEND_LINES, _LEGEND_LINE = 2, 0.21  # lines that a figure has room for; inches of one more
FONTS: dict[str, Any] = {  # both come with matplotlib
    "serif": {"font.family": "STIXGeneral", "mathtext.fontset": "stix", "font.size": 10},
    "sans": {"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"},
}
STYLE: Any = {
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "savefig.dpi": 200,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Look:
    """Colour and marker of every recipe, filling of every backend."""

    recipes: tuple[str, ...]
    backends: tuple[str, ...]

    def colour(self, recipe: str) -> str:
        """The recipe's colour, as hex."""
        return _COLOURS[self.recipes.index(recipe) % len(_COLOURS)]

    def marker(self, recipe: str) -> str:
        """The recipe's marker, in matplotlib's code."""
        return _MARKERS[self.recipes.index(recipe) % len(_MARKERS)]

    def line(self, recipe: str) -> Any:
        """The recipe's dashes, in matplotlib's code."""
        return _LINES[self.recipes.index(recipe) % len(_LINES)]

    def fill(self, backend: str) -> dict[str, Any]:
        """How markers of this backend are filled: keywords of a matplotlib line."""
        style = _FILLS[self.backends.index(backend) % len(_FILLS)]
        if style == "none":  # white, so that the error bars do not show through
            return {"markerfacecolor": "white"}
        return {"fillstyle": style, "markerfacecoloralt": "white"}


_T = TypeVar("_T")


def enough(items: Sequence[_T], limit: int, what: str, note: str) -> tuple[Sequence[_T], str]:
    """As many as one figure can show, and the note, which tells what was left out."""
    if len(items) <= limit:
        return items, note
    rest = f"First {limit} of {len(items)} {what}; choose others with --where."
    return items[:limit], f"{note} {rest}"


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side, at most three. Width and height of one in inches."""
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(width * columns, 4.6), height * lines))
    axes = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def span(x: Estimate) -> tuple[float, float, float]:
    """A positive value and its ends, no further than half and twice the value."""
    return max(x.low, x.value / 2), x.value, min(x.high, 2 * x.value)


def reach(value: Estimate) -> list[list[float]]:
    """Lengths of an error bar; an interval need not hold its value, a bar must."""
    return [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]


def crowded(values: Sequence[float]) -> bool:
    """Whether an axis from 0 would crowd the small ones of these positive values."""
    return bool(values) and max(values) > 8 * min(values)


def scale(
    ax: Axes, name: Literal["x", "y"], values: Sequence[float], log: bool | None = None
) -> None:
    """An axis of latencies: from 0, or logarithmic where that would crowd the fast ones.

    Args:
        ax: The panel.
        name: Which of its axes.
        values: What it must show, above 0.
        log: Logarithmic or not, where the panels of a figure should agree.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not (crowded(values) if log is None else log):
        ax.set(**{f"{name}lim": (0, 1.1 * max(values))})
        return
    ax.set(**{f"{name}scale": "log", f"{name}lim": (0.8 * min(values), 1.25 * max(values))})
    axis = ax.xaxis if name == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend(
    figure: Figure,
    look: Look,
    recipes: set[str],
    backends: set[str],
    note: str,
    front: bool = False,
) -> None:
    """Name the recipes by marker, the backends by filling if several, and the Pareto front."""
    from matplotlib.lines import Line2D

    named = [
        Line2D([], [], linestyle="none", marker=look.marker(recipe), color=look.colour(recipe),
               markersize=6, label=recipe.replace("+", " + "))
        for recipe in [r for r in look.recipes if r in recipes][:MAX_NAMES]
    ]  # fmt: skip
    others = []
    if len(backends) > 1:
        others = [
            Line2D([], [], linestyle="none", marker="o", color="#555555", markersize=6,
                   label=f"on {backend}", **look.fill(backend))
            for backend in look.backends
            if backend in backends
        ]  # fmt: skip
    if front:
        others.append(Line2D([], [], color="#999999", linestyle="--", label="Pareto front"))
    columns = max(2, min(4, int(figure.get_figwidth() // 1.9)))
    if others:  # a column of their own
        lines = max(len(others), -(-len(named) // (columns - 1)))
        columns = -(-len(named) // lines) + 1
        named += [Line2D([], [], linestyle="none", label=" ")] * (-len(named) % lines)
    legend_below(figure, [*named, *others], columns, note)


Box = tuple[float, float, float, float]


def label_free(
    ax: Axes,
    text: str,
    at: tuple[float, float],
    taken: Sequence[tuple[float, float]],
    labels: list[Box],
) -> None:
    """Name a point where it hides no other label and the fewest of the ``taken`` points.

    Its four sides are tried, then the same one and two lines further away. The axes' limits must
    be set. The text has a white rim, so that a line behind it does not hurt.

    Args:
        ax: Where.
        text: The name.
        at: The point, in data.
        taken: Other points, in data.
        labels: Boxes of the labels made so far, in pixels; this one is added.
    """
    from matplotlib.patheffects import withStroke

    x, y = ax.transData.transform(at)
    root = ax.get_figure(root=True)
    dpi = root.dpi if root is not None else 100.0
    width, height = 0.055 * len(text) * dpi, 0.14 * dpi  # of 7 points
    others = [ax.transData.transform(point) for point in taken]
    (left, bottom), (right, top) = ax.bbox.get_points().tolist()

    def box(side: tuple[int, int, float]) -> Box:
        x0 = x if side[0] > 0 else x - width
        away = side[2] * dpi / 72
        y0 = y + away if side[1] > 0 else y - away - height
        return x0, y0, x0 + width, y0 + height

    def cost(side: tuple[int, int, float]) -> float:
        x0, y0, x1, y1 = box(side)
        rim = 0.06 * dpi
        hidden = sum(x0 - rim < u < x1 + rim and y0 - rim < v < y1 + rim for u, v in others)
        written = sum(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in labels)
        outside = x0 < left or x1 > right or y0 < bottom or y1 > top
        return float(hidden + 20 * written + 100 * outside + side[2] / 100)

    sides = [(sx, sy, away) for away in (4.0, 15.0, 26.0) for sy in (1, -1) for sx in (1, -1)]
    best = min(sides, key=cost)
    labels.append(box(best))
    sx, sy, away = best
    note = ax.annotate(text, at, (4 * sx, away * sy), fontsize=7, textcoords="offset points",
                       color="#555555", ha="left" if sx > 0 else "right",
                       va="bottom" if sy > 0 else "top", zorder=4)  # fmt: skip
    note.set_in_layout(False)
    note.set_path_effects([withStroke(linewidth=2, foreground="white")])


def legend_below(figure: Figure, handles: Sequence[Any], columns: int, note: str) -> None:
    """A legend below the panels, headed by what the figure does not show; then all is laid out.

    A long legend makes the figure higher, not its panels smaller.
    """
    lines = -(-len(handles) // columns)
    if lines > _LEGEND_LINES:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _LEGEND_LINE * (lines - _LEGEND_LINES))
    made = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, title=note
    )
    made.get_title().set(fontsize=7.5, color="#444444")
    lay_out(figure)


def lay_out(figure: Figure) -> None:
    """Give the panels their places and sizes, once.

    A figure that has a layout engine is drawn a second time for every file, to be laid out anew.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ConstrainedLayoutEngine().execute(figure)
