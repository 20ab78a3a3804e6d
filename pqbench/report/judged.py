"""Print judged figures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.report.regression import BETTER, SAME, WORSE, Figure
from pqbench.report.rows import Estimate

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {SAME: "", BETTER: "green", WORSE: "bold red"}


def print_figures(figures: Sequence[Figure], console: Console, names: tuple[str, str]) -> None:
    """One line per figure: both values with their intervals, change, p, verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    for name in (*names, "change", "p (Holm)"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for item in figures:
        verdict = Text(item.verdict, style=_STYLES.get(item.verdict, "yellow"))
        if item.why:
            verdict.append(f" ({item.why})")
        p = "" if item.p is None else "<0.001" if item.p < 0.001 else f"{item.p:.3f}"
        change = f"{100 * item.change:+.1f} %"
        table.add_row(Text(item.name), _shown(item.before), _shown(item.after), change, p, verdict)
    console.print(table)


def _shown(value: Estimate) -> str:
    if value.low == value.high:
        return f"{value.value:.4g}"
    return f"{value.value:.4g} ({value.low:.4g}…{value.high:.4g})"
