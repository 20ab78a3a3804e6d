r"""Tables for a thesis: booktabs, siunitx, captions and labels; they compile without an edit.

Every table is a float of its own, so that ``\input{table.tex}`` is all that a thesis needs, with
``\usepackage{booktabs,siunitx}`` in its preamble.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

from pqbench.report.render import GROUPING, group_ends, short_note
from pqbench.report.table import NONE, Cell, Column, Table

MAX_LINES = 16  # of one float: as many as fit a page with their footnotes
MAX_NOTE = 180  # characters of a footnote
PREAMBLE = r"\usepackage{booktabs,siunitx}"
_CAPTIONS = {
    "summary": "Accuracy, latency, speedup and size after compression",
    "batches": "Latency per sample by batch size, memory and accuracy",
}
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u2013": "--",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "µ": r"\textmu{}",
}


def escape(text: str) -> str:
    """Plain text for LaTeX; what pdflatex has no glyph for becomes its nearest ASCII, or ``?``."""

    def one(c: str) -> str:
        if c in _SPECIAL:
            return _SPECIAL[c]
        if c.isspace():
            return " "
        if " " <= c <= "~" or "\u00c0" <= c <= "\u00ff":
            return c
        return unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?"

    return "".join(one(c) for c in text)


def _breakable(text: str) -> str:
    """Escaped, and free to break after what joins long names and paths."""
    return re.sub(r"(\\_|/|\+|=)", r"\1\\allowbreak{}", escape(text))


def to_latex(table: Table, label: str = "pqbench") -> str:
    r"""The table as floats: one, or one per model where they are many lines.

    Args:
        table: What to show.
        label: Prefix of the labels, as in ``\ref{tab:pqbench-summary}``.
    """
    places = [tuple(_place(table, i)) for i in range(len(table.rows))]
    parts = [list(range(len(table.rows)))]
    if len(table.rows) > MAX_LINES:
        parts = []
        for _, indices in groupby(range(len(places)), key=lambda i: places[i]):
            lines = list(indices)
            parts += [lines[i : i + MAX_LINES] for i in range(0, len(lines), MAX_LINES)]
    floats = []
    for number, lines in enumerate(parts, start=1):
        suffix = f"-{number}" if len(parts) > 1 else ""
        where = " · ".join(places[lines[0]]) if len(parts) > 1 else ""
        floats.append(_float(table, lines, f"tab:{label}-{table.name}{suffix}", where))
    return f"% needs {PREAMBLE}\n" + "\n".join(floats)


def _place(table: Table, row: int) -> list[str]:
    """Model, and data set and machine where they are columns."""
    shown = [i for i, c in enumerate(table.columns) if c.name in GROUPING and c.name != "backend"]
    return [table.cells[row][i].text for i in shown]


def _float(table: Table, lines: Sequence[int], label: str, where: str) -> str:
    names = [c.name for c in table.columns]
    recipe, status = names.index("recipe"), names.index("status")
    grouping = [i for i, name in enumerate(names) if name in GROUPING]
    numeric = [i for i, c in enumerate(table.columns) if c.numeric]
    used = dict.fromkeys(n for i in lines for cell in table.cells[i] for n in cell.notes)
    shorts = {n: _shortened(table.footnotes[n - 1]) for n in used}
    numbers = {text: new for new, text in enumerate(dict.fromkeys(shorts.values()), start=1)}
    renumbered = {old: numbers[text] for old, text in shorts.items()}
    formats = [_format(table, lines, i) for i in numeric]
    caption = _CAPTIONS.get(table.name, table.name) + (f": {where}" if where else "")
    out = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3.2pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}l{''.join(formats)}@{{}}}}",
        r"\toprule",
        " & ".join(["recipe", *(_header(table.columns[i]) for i in numeric)]) + r" \\",
        r"\midrule",
    ]
    for position, index in enumerate(lines):
        line = table.cells[index]
        if position == 0 or group_ends(table, index - 1):
            title = _breakable(" · ".join(line[i].text for i in grouping))
            out.append(rf"\multicolumn{{{len(numeric) + 1}}}{{@{{}}l}}{{\textbf{{{title}}}}} \\")
        name = r" +\,".join(escape(part) for part in line[recipe].text.split("+"))
        name = rf"\quad {name}{_raised(line[recipe], renumbered)}"
        if line[status].text != "ok":
            why = rf"\textit{{{escape(line[status].text)}}}{_raised(line[status], renumbered)}"
            out.append(rf"{name} & \multicolumn{{{len(numeric)}}}{{l}}{{{why}}} \\")
        else:
            out.append(" & ".join([name, *(_value(line[i], renumbered) for i in numeric)]) + r" \\")
            details = [_detail(line[i]) for i in numeric]
            if any(details):
                out[-1] += r"[-2.5pt]"
                out.append(" & ".join(["", *details]) + r" \\")
        if group_ends(table, index) and position + 1 < len(lines):
            out.append(r"\addlinespace")
    notes = [rf"\textsuperscript{{{new}}}~{_breakable(text)}\par" for text, new in numbers.items()]
    return "\n".join(
        [
            *out,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\vspace{3pt}\parbox{\linewidth}{\scriptsize\raggedright",
            *notes,
            escape(table.legend.replace("Low…high:", "In brackets:")),
            "}",
            r"\end{table}",
            "",
        ]
    )


def _shortened(note: str) -> str:
    """A footnote short enough for print; ``table.md`` has the whole."""
    note = short_note(note)
    while len(note) > MAX_NOTE and (shorter := re.sub(r" ?\([^()]*\)", "", note)) != note:
        note = shorter  # what stands in parentheses explains more than print has room for
    while len(note) > MAX_NOTE and "; " in note:
        note = note.rpartition("; ")[0]
    return note


def _format(table: Table, lines: Sequence[int], column: int) -> str:
    """An S column as wide as its values, which siunitx aligns at the point."""
    texts = [table.cells[i][column].text for i in lines]
    numbers = [t for t in texts if t != NONE] or ["0"]
    whole = max(len(t.partition(".")[0].lstrip("-")) for t in numbers)
    sign = "-" if any(t.startswith("-") for t in numbers) else ""
    decimals = max(len(t.partition(".")[2]) for t in numbers)
    width = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
    # as wide as the interval below (5 pt, a digit takes 0.88 mm) and the header (8 pt, 1.6 mm)
    details = max((len(_interval(table.cells[i][column])) for i in lines), default=0)
    header = max(map(len, _header_lines(table.columns[column])))
    room = f"table-column-width={max(0.95 * details, 1.6 * header):.1f}mm"
    return f"S[table-format={width},mode=text,detect-weight,table-align-text-post=false,{room}]"


def _header_lines(column: Column) -> list[str]:
    """Name, batch size and unit on lines of their own."""
    name, _, batch = column.header.partition(", ")
    name = name.replace("per sample", "per\nsample")
    return [*re.sub(r" ([\[(])", r"\n\1", name).split("\n"), *([batch] if batch else [])]


def _header(column: Column) -> str:
    lines = r"\\".join("{" + escape(part) + "}" for part in _header_lines(column))
    return rf"{{\shortstack{{{lines}}}}}"


def _raised(cell: Cell, renumbered: dict[int, int]) -> str:
    numbers = dict.fromkeys(str(renumbered[n]) for n in cell.notes)
    marks = [*(["ns"] if cell.noise else []), *numbers]
    return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""


def _value(cell: Cell, renumbered: dict[int, int]) -> str:
    marks = _raised(cell, renumbered)
    if cell.text == NONE:
        return rf"{{--{marks}}}"
    number = rf"\bfseries {cell.text}" if cell.best else cell.text
    return f"{number}{{{marks}}}" if marks else number


def _detail(cell: Cell) -> str:
    return rf"{{\tiny {escape(_interval(cell))}}}" if cell.detail else ""


def _interval(cell: Cell) -> str:
    low, _, high = cell.detail.partition("…")
    return f"[{low}, {high}]" if high else f"({low})" if low else ""


def document(parts: Sequence[str], figures: Sequence[str]) -> str:
    """A whole document that shows the tables and figures; each can be taken into a thesis as it is.

    Args:
        parts: Names of the LaTeX files beside it.
        figures: Names of the PDF figures beside it.
    """
    shown = [
        "\\begin{figure}[htbp]\n\\centering\n"
        rf"\includegraphics[width=\linewidth,height=0.8\textheight,keepaspectratio]{{{name}}}"
        f"\n\\caption{{{escape(FIGURES.get(name, name))}}}\n\\label{{fig:pqbench-{name}}}\n"
        "\\end{figure}"
        for name in figures
    ]
    return "\n".join(
        [
            r"\documentclass[a4paper,11pt]{article}",
            r"\usepackage[margin=2.2cm]{geometry}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage{textcomp,graphicx}",
            PREAMBLE,
            r"\begin{document}",
            *(rf"\input{{{name}}}" for name in parts),
            *shown,
            r"\end{document}",
            "",
        ]
    )


FIGURES = {
    "accuracy_latency": "Accuracy against latency, with the Pareto front",
    "accuracy_size": "Accuracy against the size of the deployed files, with the Pareto front",
    "speedup": "Speedup against the same backend's baseline",
    "latency_batch": "Latency per sample by batch size",
    "latency_distribution": "Distribution of the latency of single calls",
    "layer_sensitivity": "Sensitivity of the layers: drop with each compressed alone",
}
