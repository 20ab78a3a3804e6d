"""The layers of sessions side by side: a terminal's table, CSV, a figure, a page with all."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.report.estimate import Estimate
from pqbench.report.layers import TOLERANCE, Layer, LayerTable
from pqbench.report.style import FONTS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

BARS = 30  # layers in the figure
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")


def verdict(table: LayerTable) -> list[str]:
    """What the table says, in sentences."""
    first, last = table.sessions[0], table.sessions[-1]
    change = table.timed_change
    low, high = f"{change.low:+.3f}", f"{change.high:+.3f}"
    said = [
        f"A call took {table.timed_ms[0].value:.3f} ms in {first} and "
        f"{table.timed_ms[-1].value:.3f} ms in {last}: "
        f"{change.value:+.3f} [{low}, {high}] ms, without the profiler."
    ]
    if not table.differs:
        said.append("No difference is shown, so no layer is named as its reason.")
        return said
    if not table.accounts:
        said.append(
            f"The layers add up to {table.total_change.value:+.3f} ms, {table.unaccounted:.0%} off "
            f"(allowed: {TOLERANCE:.0%}): no layer is named as the reason. Use more starts, or a "
            "quieter machine."
        )
        return said
    said.append(f"The layers add up to {table.total_change.value:+.3f} ms.")
    shown = [layer for layer in table.largest() if layer.shown]
    for words, sign in (("Slower", 1), ("Faster", -1)):
        named = [layer for layer in shown if sign * layer.change.value > 0][:3]
        if named:
            each = "; ".join(f"{x.name} {x.change.value:+.3f} ms" for x in named)
            said.append(f"{words} by most: {each}.")
    if not shown:
        said.append("No layer is shown to have changed.")
    return said


def to_rich(table: LayerTable, most: int) -> Table:
    """The layers that changed most, the rest together, and the sums.

    Args:
        table: The layers.
        most: Layers to show, by how much they changed.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    view = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    view.add_column("layer", overflow="fold")
    for name in table.sessions:
        view.add_column(f"{name}\n[ms]", justify="right")
    view.add_column("of it\nconversions", justify="right")
    view.add_column("change [ms]", justify="right")
    chosen = table.largest()[:most]
    shown = [layer for layer in table.layers if layer in chosen]
    for layer in shown:
        view.add_row(
            Text(layer.name),
            *(_ms(value) for value in layer.ms),
            f"{layer.conversions_ms[-1]:.3f}" if layer.conversions_ms[-1] else "",
            _change(layer),
        )
    rest = [layer for layer in table.layers if layer not in chosen]
    if rest:
        sums = [sum(layer.ms[i].value for layer in rest) for i in range(len(table.sessions))]
        converted = sum(layer.conversions_ms[-1] for layer in rest)
        change = sum(layer.change.value for layer in rest)
        view.add_row(
            f"{len(rest)} more", *(f"{x:.3f}" for x in sums), f"{converted:.3f}", f"{change:+.3f}"
        )
    view.add_section()
    sums = [sum(layer.ms[i].value for layer in table.layers) for i in range(len(table.sessions))]
    converted = sum(layer.conversions_ms[-1] for layer in table.layers)
    view.add_row(
        "sum", *(f"{x:.3f}" for x in sums), f"{converted:.3f}", _interval(table.total_change)
    )
    view.add_row("timed", *map(_ms, table.timed_ms), "", _interval(table.timed_change))
    return view


def to_csv(table: LayerTable) -> str:
    """Every layer, with a column for each session."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["layer", "operators"]
    for name in table.sessions:
        header += [f"{name} kernels", f"{name} [ms]", f"{name} low", f"{name} high"]
        header += [f"{name} conversions [ms]"]
    writer.writerow([*header, "change [ms]", "change low", "change high", "p, Holm", "shown"])
    for layer in table.layers:
        cells: list[object] = [_safe(layer.name), _safe(" ".join(layer.operators))]
        for kinds, ms, converted in zip(layer.kinds, layer.ms, layer.conversions_ms, strict=True):
            cells += [_safe(kinds), *_digits(ms), f"{converted:.6g}"]
        shown = "yes" if layer.shown else "no"
        writer.writerow([*cells, *_digits(layer.change), f"{layer.p:.4g}", shown])
    return out.getvalue()


def shares_to_csv(table: LayerTable) -> str:
    """Every operator of the first session's file: its own ms in each, or what it is fused with."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [f"{name} {what}" for name in table.sessions for what in ("[ms]", "fused with")]
    writer.writerow(["operator", "type", "layer", *columns])
    for share in table.shares:
        cells = []
        for ms, within in zip(share.ms, share.within, strict=True):
            cells += ["" if ms is None else f"{ms:.6g}", _safe(within)]
        writer.writerow([_safe(share.name), _safe(share.type), _safe(share.layer), *cells])
    return out.getvalue()


def figure(table: LayerTable) -> Figure:
    """Each session's ms of the layers that changed most, in order of execution.

    Conversions are hatched.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure as NewFigure

    chosen = table.largest()[:BARS]
    layers = [layer for layer in table.layers if layer in chosen]
    with mpl.rc_context({**STYLE, **FONTS["sans"]}):
        count = len(table.sessions)
        drawn = NewFigure(
            figsize=(7, 1.2 + 0.16 * len(layers) * (1 + count / 2)), layout="constrained"
        )
        axes = drawn.subplots()
        thick = 0.8 / count
        for index, name in enumerate(table.sessions):
            places = [i + (index - (count - 1) / 2) * thick for i in range(len(layers))]
            converted = [layer.conversions_ms[index] for layer in layers]
            work = [
                max(layer.ms[index].value - own, 0.0)
                for layer, own in zip(layers, converted, strict=True)
            ]
            colour = _COLOURS[index % len(_COLOURS)]
            axes.barh(places, work, thick, color=colour, label=name)
            axes.barh(
                places, converted, thick, left=work, color="white", edgecolor=colour, hatch="////",
                linewidth=0.6, label=f"{name}: conversions" if any(converted) else None,
            )  # fmt: skip
        axes.set_yticks(range(len(layers)), [layer.name for layer in layers])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("ms per call")
        drawn.legend(loc="outside upper left", ncols=2, frameon=False)
        return drawn


def to_html(table: LayerTable, title: str, png: bytes, notes: Sequence[str]) -> str:
    """A page that needs nothing else.

    Args:
        table: The layers.
        title: What was compared.
        png: The figure.
        notes: How and where it was measured.
    """
    esc = html.escape
    said = "".join(f"<p>{esc(line)}</p>" for line in verdict(table))
    head = "".join(f"<th>{esc(name)} [ms]<th>conversions [ms]" for name in table.sessions)
    lines = []
    for layer in table.layers:
        cells = "".join(
            f'<td title="{esc(kinds)}">{_ms(ms)}<td>{f"{own:.3f}" if own else ""}'
            for kinds, ms, own in zip(layer.kinds, layer.ms, layer.conversions_ms, strict=True)
        )
        mark = ' class="shown"' if layer.shown else ""
        kernels = esc(" → ".join(kinds or "none" for kinds in layer.kinds))
        lines.append(
            f"<tr{mark}><th>{esc(layer.name)}<td class=k>{esc(', '.join(layer.operators))}"
            f"<td class=k>{kernels}{cells}<td>{esc(_change(layer))}"
        )
    sums = "".join(f"<td>{_ms(ms)}<td>" for ms in table.timed_ms)
    image = base64.b64encode(png).decode("ascii")
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{esc(title)}</title>
<style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:1rem auto;padding:0 1rem}}
div{{overflow-x:auto}} table{{border-collapse:collapse;font-variant-numeric:tabular-nums}}
th,td{{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}}
tr>th:first-child,td.k{{text-align:left}} td.k{{color:#555;white-space:normal}}
tr.shown td:last-child{{font-weight:bold}} img{{max-width:100%}}
tfoot th,tfoot td{{border-top:2px solid}}
</style>
<h1>{esc(title)}</h1>{said}
<img alt="Milliseconds of each layer" src="data:image/png;base64,{image}">
<div><table><thead><tr><th>layer<th>operators<th>kernels{head}<th>change [ms]</thead>
<tbody>{"".join(lines)}</tbody>
<tfoot><tr><th>timed<td><td>{sums}<td>{_interval(table.timed_change)}</tfoot></table></div>
{"".join(f"<p>{esc(note)}</p>" for note in notes)}
<p>Conversions (quantizing, dequantizing, another layout) are charged to the layer that they are
there for: they cut the kernels into islands, and it is the one on the smaller side. Bold: shown to
have changed, after Holm's correction over the layers.</p></html>
"""


def _ms(value: Estimate) -> str:
    return f"{value.value:.3f}"


def _interval(value: Estimate) -> str:
    return f"{value.value:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _change(layer: Layer) -> str:
    return _interval(layer.change) + (" *" if layer.shown else "")


def _digits(value: Estimate) -> list[str]:
    return [f"{number:.6g}" for number in (value.value, value.low, value.high)]


def _safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
