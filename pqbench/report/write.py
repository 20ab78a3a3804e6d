"""Write every table, figure and text of some records into a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pqbench.core.files import write_text
from pqbench.core.ownership import claim, note
from pqbench.core.record import Record
from pqbench.report import escape, latex, latex_document, references
from pqbench.report.answer import Answer, lines, to_plain
from pqbench.report.captions import caption
from pqbench.report.drawing import drawn_beside
from pqbench.report.html import to_html
from pqbench.report.load import newest
from pqbench.report.methods import methods_paragraphs
from pqbench.report.names import in_print
from pqbench.report.plots import save_plots
from pqbench.report.render import (
    csv_text,
    plain_markdown,
    significance_csv,
    to_batches_csv,
    to_csv,
    to_markdown,
)
from pqbench.report.rows import Row, batch_sizes, make_rows, ordered
from pqbench.report.scaling import HEADER as SCALING_HEADER
from pqbench.report.scaling import scalings, table_rows
from pqbench.report.settings import HEADER, settings
from pqbench.report.significance import compare_with_baselines
from pqbench.report.table import batch_table, summary_table
from pqbench.report.trail import HEADER as TRAIL_HEADER
from pqbench.report.trail import Trail

_HINT = "move it away, or give another folder (--out)"


def write_report(
    records: Sequence[Record],
    folder: Path,
    plots: bool = True,
    folders: Mapping[tuple[str, str], Path] = MappingProxyType({}),
    font: str = "serif",
    answered: Sequence[Answer] = (),
    trail: Trail | None = None,
) -> list[Path]:
    """Write the tables (Markdown, CSV, LaTeX), figures, methods, settings, and ``report.html``.

    Args:
        records: Any records; of one experiment in one environment the newest counts.
        folder: Made if missing; files that pqbench made there are replaced. One that was edited
            since is kept under another name.
        plots: Also draw the figures.
        folders: Where each record lies; see :func:`pqbench.report.plots.save_plots`.
        font: ``serif`` or ``sans``, in the figures.
        answered: The answers, with which everything begins; see :mod:`pqbench.report.answer`.
        trail: Of the search that chose what was measured.

    Returns:
        The files written, the page first.

    Raises:
        ConfigError: A file of that name is there which pqbench did not make.
    """
    records = ordered(newest(list(records)))
    rows = make_rows(records)
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".figures-", dir=folder))
    draw = partial(save_plots, records, aside, folders, font, rows)
    try:
        with drawn_beside(draw, len(records) if plots else 0) as finished:
            texts, parts = _texts(records, rows, folders, answered, trail)
            drawn = finished() if plots else []
        if plots:
            figures = [path.stem for path in drawn if path.suffix == ".pdf"]
            texts["figures.tex"] = latex_document.figures_tex(figures, rows)
            parts.append("figures")
        cited = references.keys_in([texts["methods.md"]])
        texts["report.tex"] = latex_document.document(parts, bool(cited))
        claim(folder, [*texts, *(path.name for path in drawn)], _HINT)
        drawn = [path.replace(folder / path.name) for path in drawn]
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    written = []
    for name, text in texts.items():
        path = folder / name
        write_text(path, text)
        written.append(path)
    note(folder)
    return written + drawn


def _texts(
    records: Sequence[Record],
    rows: Sequence[Row],
    folders: Mapping[tuple[str, str], Path],
    answered: Sequence[Answer],
    trail: Trail | None,
) -> tuple[dict[str, str], list[str]]:
    """Every text by its file's name, the page first, and the parts of the LaTeX document."""
    judged = compare_with_baselines(rows)
    summary, batches = summary_table(rows, judged), batch_table(rows, judged)
    methods = methods_paragraphs(records, answered[0].margins if answered else None)
    table = [(x.step, x.name, x.value) for x in settings(records)]
    settings_caption = caption("Settings of the experiments", rows, batch_sizes(rows))
    told = [lines(answer) for answer in answered]
    scaled = scalings(rows)
    texts = {
        "report.html": to_html(
            records,
            rows,
            summary,
            [*told, *([trail.lines()] if trail else []), *[[x.advice()] for x in scaled]],
            folders,
            methods,
            judged,
            batches,
        ),
        "table.md": answer_markdown(answered) + to_markdown(summary),
        "table.csv": to_csv(summary),
        "table.tex": latex.to_latex(summary),
        "batches.md": to_markdown(batches),
        "batches.csv": to_batches_csv(records, rows),
        "batches.tex": latex.to_latex(batches),
        "significance.csv": significance_csv(rows, judged),
        "methods.md": "\n\n".join(methods) + "\n",
        "methods.tex": "\n\n".join(references.for_latex(text) for text in methods) + "\n",
        "settings.md": plain_markdown(HEADER, table),
        "settings.csv": csv_text([HEADER, *table]),
        "settings.tex": latex_document.plain_table(
            HEADER, table, settings_caption, "tab:pqbench-settings"
        ),
        "references.bib": references.bibtex(references.keys_in(methods)),
        "answer.json": json.dumps(to_plain(answered), indent=2, allow_nan=False) + "\n",
        "answer.md": answer_markdown(answered),
        "answer.tex": answer_latex(answered),
    }
    if scaled:
        texts["scaling.md"] = plain_markdown(SCALING_HEADER, table_rows(scaled))
        texts["scaling.csv"] = csv_text([SCALING_HEADER, *table_rows(scaled)])
    if trail is not None:
        texts["search.md"] = plain_markdown(TRAIL_HEADER, trail.rows())
        texts["search.csv"] = csv_text([TRAIL_HEADER, *trail.rows()])
    parts = [*(["answer"] if answered else []), "methods", "table", "batches"]
    return texts, [*parts, *(["settings"] if table else [])]


def answer_latex(answered: Sequence[Answer]) -> str:
    """The answers in LaTeX, in the names of print and without what one would type."""
    told = [line for answer in answered for line in lines(answer, commands=False)]
    return "\n\n".join(escape.latex(in_print(line)) for line in told) + "\n"


def answer_markdown(answered: Sequence[Answer]) -> str:
    """The answers in Markdown, the sentence in bold; empty without one."""
    parts = []
    for answer in answered:
        first, *rest = (escape.markdown(line) for line in lines(answer))
        parts += [f"**{first}**", "", *(f"- {line}" for line in rest), ""]
    return "\n".join(parts) + ("\n" if parts else "")
