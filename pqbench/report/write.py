"""Write every table and figure of some records into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pqbench.record import Record
from pqbench.report.load import newest
from pqbench.report.plots import save_plots
from pqbench.report.render import to_csv, to_latex, to_markdown
from pqbench.report.table import make_table


def write_report(records: Sequence[Record], folder: Path, plots: bool = True) -> list[Path]:
    """Write ``table.md``, ``table.csv``, ``table.tex`` and the figures.

    Args:
        records: Any records; of one experiment the newest counts.
        folder: Made if missing; files of the same names are replaced.
        plots: Also draw the figures.

    Returns:
        The files written.
    """
    records = newest(list(records))
    folder.mkdir(parents=True, exist_ok=True)
    table = make_table(records)
    written = []
    for suffix, text in (
        ("md", to_markdown(table)),
        ("csv", to_csv(table)),
        ("tex", to_latex(table)),
    ):
        path = folder / f"table.{suffix}"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written + (save_plots(records, folder) if plots else [])
