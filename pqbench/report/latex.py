r"""Tables for a thesis: booktabs, siunitx, captions and labels; they compile without an edit.

Every table is a float of its own, so that ``\input{table.tex}`` is all that a thesis needs, with
``\usepackage{booktabs,siunitx}`` in its preamble.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from pqbench.report import footnotes
from pqbench.report.captions import caption
from pqbench.report.column import Column, Kind
from pqbench.report.escape import latex as escape
from pqbench.report.names import backend_name, in_print
from pqbench.report.table import FLAGS, NONE, NS, Cell, Table
from pqbench.report.terminal import grouping, place_of, unsupported, unsupported_line

MAX_LINES = 16  # of one float: as many as fit a page with their footnotes
MAX_NOTE = 180  # characters of a footnote
PREAMBLE = r"\usepackage{booktabs,siunitx}"
_CAPTIONS = {
    "summary": "Accuracy, latency, speedup and size after compression",
    "batches": "Latency per sample by batch size, memory and accuracy",
}


def breakable(text: str) -> str:
    """Escaped, and free to break after what joins long names and paths."""
    return re.sub(r"(\\_|/|\+|=)", r"\1\\allowbreak{}", escape(text))


def to_latex(table: Table, label: str = "pqbench") -> str:
    r"""The table as floats: one, or one per model where they are many lines.

    Args:
        table: What to show.
        label: Prefix of the labels, as in ``\ref{tab:pqbench-summary}``.
    """
    hidden = set(unsupported(table))
    rows = [i for i in range(len(table.rows)) if i not in hidden]
    places = {i: tuple(_place(table, i)) for i in rows}
    parts = [rows]
    if len(rows) > MAX_LINES:
        parts = []
        for _, indices in groupby(rows, key=lambda i: places[i]):
            lines = list(indices)
            parts += [lines[i : i + MAX_LINES] for i in range(0, len(lines), MAX_LINES)]
    floats = []
    for number, lines in enumerate(parts, start=1):
        suffix = f"-{number}" if len(parts) > 1 else ""
        floats.append(_float(table, lines, f"tab:{label}-{table.name}{suffix}", number == 1))
    return f"% needs {PREAMBLE}\n" + "\n".join(floats)


def _place(table: Table, row: int) -> list[str]:
    """Model, and data set and machine where they are columns."""
    shown = [i for i in grouping(table) if table.columns[i].name != "backend"]
    return [table.cells[row][i].text for i in shown]


def caption_of(table: Table, lines: Sequence[int]) -> str:
    """What is shown, of which models, on how many samples, at which batch sizes, on what."""
    sizes = dict.fromkeys(c.at.removeprefix("batch ") for c in table.columns if "batch" in c.at)
    return caption(_CAPTIONS.get(table.name, table.name), [table.rows[i] for i in lines], sizes)


def _notes(table: Table, row: int, column: int) -> list[str]:
    """A cell's footnotes as they are printed."""
    if table.columns[column].kind is Kind.STATUS:
        notes: Sequence[str] = footnotes.failure_in_print(table.rows[row].record)
    else:
        told = [table.footnotes[n - 1] for n in table.cells[row][column].notes]
        notes = [footnotes.note_in_print(note) for note in told]
    return [_shortened(text) for text in notes]


def _float(table: Table, lines: Sequence[int], label: str, first: bool) -> str:
    recipe, status = place_of(table, Kind.RECIPE), place_of(table, Kind.STATUS)
    numeric = [i for i, c in enumerate(table.columns) if c.numeric]
    numbers: dict[str, int] = {}

    def raised(row: int, column: int) -> str:
        cell = table.cells[row][column]
        found = [numbers.setdefault(n, len(numbers) + 1) for n in _notes(table, row, column)]
        flags = [escape(FLAGS[cell.flag][0])] if cell.flag else []
        marks = [*([NS[0]] if cell.noise else []), *flags, *map(str, dict.fromkeys(found))]
        return rf"\textsuperscript{{{','.join(marks)}}}" if marks else ""

    formats = [_format(table, lines, i) for i in numeric]
    out = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3.2pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{escape(caption_of(table, lines))}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}l{''.join(formats)}@{{}}}}",
        r"\toprule",
        " & ".join(["recipe", *(_header(table.columns[i]) for i in numeric)]) + r" \\",
        r"\midrule",
    ]
    previous = ""
    for index in lines:
        line = table.cells[index]
        title = breakable(" · ".join(_printed(table, line, i) for i in grouping(table)))
        if title != previous:
            out += [r"\addlinespace"] if previous else []
            out.append(rf"\multicolumn{{{len(numeric) + 1}}}{{@{{}}l}}{{\textbf{{{title}}}}} \\")
        previous = title
        steps = in_print(line[recipe].text).replace(" + ", "+").split("+")
        name = r" +\,".join(escape(part) for part in steps)
        name = rf"\quad {name}{raised(index, recipe)}"
        if line[status].text != "ok":
            why = rf"\textit{{{escape(line[status].text)}}}{raised(index, status)}"
            out.append(rf"{name} & \multicolumn{{{len(numeric)}}}{{l}}{{{why}}} \\")
        else:
            values = [_value(line[i], raised(index, i)) for i in numeric]
            out.append(" & ".join([name, *values]) + r" \\")
            details = [_detail(line[i]) for i in numeric]
            if any(details):
                out[-1] += r"[-2.5pt]"
                out.append(" & ".join(["", *details]) + r" \\")
    notes = [rf"\textsuperscript{{{new}}}~{breakable(text)}\par" for text, new in numbers.items()]
    left_out = in_print(unsupported_line(table, backend_name)) if first else ""
    return "\n".join(
        [
            *out,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\vspace{3pt}\parbox{\linewidth}{\scriptsize\raggedright",
            *notes,
            *([rf"{breakable(left_out)}.\par"] if left_out else []),
            escape(table.legend.replace("Low…high:", "In brackets:")),
            "}",
            r"\end{table}",
            "",
        ]
    )


def _printed(table: Table, line: Sequence[Cell], column: int) -> str:
    """A heading's part; a runtime by its name in print."""
    text = line[column].text
    return backend_name(text) if table.columns[column].name == "backend" else text


def _shortened(note: str) -> str:
    """A footnote short enough for print; ``table.md`` has the whole."""
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
    """Name, unit and batch size on lines of their own."""
    unit = [f"[{column.unit}]"] if column.unit else []
    detail = [f"({column.detail_title})"] if column.detail_title else []
    return [*column.title.split(), *unit, *detail, *([column.at] if column.at else [])]


def _header(column: Column) -> str:
    lines = r"\\".join("{" + escape(part) + "}" for part in _header_lines(column))
    return rf"{{\shortstack{{{lines}}}}}"


def _value(cell: Cell, marks: str) -> str:
    if cell.text == NONE:
        return rf"{{--{marks}}}"
    number = rf"\bfseries {cell.text}" if cell.best else cell.text
    return f"{number}{{{marks}}}" if marks else number


def _detail(cell: Cell) -> str:
    return rf"{{\tiny {escape(_interval(cell))}}}" if cell.detail else ""


def _interval(cell: Cell) -> str:
    low, _, high = cell.detail.partition("…")
    return f"[{low}, {high}]" if high else f"({low})" if low else ""
