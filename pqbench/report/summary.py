"""What a run or sweep prints when it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.record import Record
from pqbench.report.answer import Answer, lines
from pqbench.report.escape import terminal
from pqbench.report.load import newest
from pqbench.report.rows import make_rows
from pqbench.report.scaling import scalings
from pqbench.report.table import make_table
from pqbench.report.terminal import to_rich

if TYPE_CHECKING:
    from rich.console import Console


ROWS_SHOWN = 100
FILES_SHOWN = 2  # the page and the table


@dataclass(frozen=True)
class Pointers:
    """Where to look further; what is empty is not printed.

    Attributes:
        folder: Folder of the run or sweep.
        files: Tables and figures that were written.
        mlflow_command: Command that serves MLflow's pages; None where a server does.
        runs_url: MLflow's run table.
        compare_url: MLflow's page that compares these runs.
        report_url: MLflow's page of the report's figures.
        problem: Why results are not in MLflow, and what to do.
    """

    folder: Path
    files: Sequence[Path] = field(default_factory=tuple)
    mlflow_command: str | None = None
    runs_url: str | None = None
    compare_url: str | None = None
    report_url: str | None = None
    problem: str = ""


def print_summary(
    records: Sequence[Record],
    console: Console,
    pointers: Pointers,
    answered: Sequence[Answer] = (),
) -> None:
    """Print the answer, the table with its notes, the counts, and where everything is."""
    from rich.text import Text

    def line(name: str, value: str) -> None:
        # addresses and commands are copied: never wrapped, cut or styled
        console.print(Text(f"{name:<10}{value}"), soft_wrap=True, highlight=False)

    for answer in answered:
        first, *others = lines(answer)
        console.print(Text(terminal(first), style="bold"))
        for more in others:
            console.print(Text(terminal(more)))
        console.print()
    records = newest(list(records))
    several = len({str(record.config.get("threads")) for record in records}) > 1
    scaled = scalings(make_rows(records)) if several else []
    for one in scaled:
        console.print(Text(terminal(one.advice()), style="bold"))
    if scaled:
        console.print()
    if len(records) > ROWS_SHOWN:
        console.print(f"{len(records)} experiments are too many lines for a terminal:")
    elif records:
        console.print(to_rich(make_table(records), console.width))
        console.print()
    line("Results", counts(records))
    line("Folder", _shown(pointers.folder))
    for path in pointers.files[:FILES_SHOWN]:
        line("", _shown(path))
    if len(pointers.files) > FILES_SHOWN:
        rest = len(pointers.files) - FILES_SHOWN
        line("", f"and {rest} more tables and figures in {_shown(pointers.files[0].parent)}")
    if pointers.mlflow_command:
        line("MLflow", pointers.mlflow_command)
    if pointers.runs_url:
        line("  runs", pointers.runs_url)
    if pointers.compare_url:
        line("  compare", pointers.compare_url)
    if pointers.report_url:
        line("  report", pointers.report_url)
    if pointers.problem:
        console.print(Text(pointers.problem, style="bold red"), soft_wrap=True)


def counts(records: Sequence[Record]) -> str:
    """How many ended how, e.g. ``6 experiments: 4 ok, 1 failed, 1 unavailable``."""
    if not records:
        return "no experiments"
    tally = Counter(record.status for record in records)
    parts = sorted(tally.items(), key=lambda item: (item[0] != "ok", -item[1], item[0]))
    noun = "experiment" if len(records) == 1 else "experiments"
    return f"{len(records)} {noun}: " + ", ".join(f"{n} {status}" for status, n in parts)


def _shown(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
