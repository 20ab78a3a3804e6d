"""What stands around a report's LaTeX tables: settings, figures, a document that shows them all."""

from __future__ import annotations

from collections.abc import Sequence

from pqbench.report.captions import caption
from pqbench.report.escape import latex as escape
from pqbench.report.latex import PREAMBLE, breakable
from pqbench.report.rows import Row, batch_sizes

MAX_SETTINGS = 50  # lines of a table of settings on one page
_FIGURES = {
    "accuracy_latency": "Accuracy against latency, with the Pareto front,",
    "accuracy_size": "Accuracy against the size of the deployed files, with the Pareto front,",
    "speedup": "Speedup against the same runtime's baseline",
    "latency_batch": "Latency per sample by batch size",
    "latency_distribution": "Distribution of the latency of single calls",
    "layer_sensitivity": "Sensitivity of the layers, the drop with each compressed alone,",
}
_SIZES = {"accuracy_latency": (0,), "speedup": (0, -1), "latency_distribution": (0,)}


def plain_table(
    header: Sequence[str], lines: Sequence[Sequence[str]], caption: str, label: str
) -> str:
    """A table of texts; the first column is left empty where it repeats, the last one wraps."""
    floats = []
    pages = [lines[i : i + MAX_SETTINGS] for i in range(0, len(lines), MAX_SETTINGS)]
    for number, page in enumerate(pages, start=1):
        suffix = f"-{number}" if len(pages) > 1 else ""
        columns = "l" * (len(header) - 1) + r"p{0.45\linewidth}"
        out = [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{{label}{suffix}}}",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"\toprule",
            " & ".join(map(escape, header)) + r" \\",
            r"\midrule",
        ]
        above = ""
        for line in page:
            if above and line[0] != above:
                out.append(r"\addlinespace")
            first = "" if line[0] == above else escape(line[0])
            out.append(" & ".join([first, *map(breakable, line[1:])]) + r" \\")
            above = line[0]
        out += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        floats.append("\n".join(out))
    return f"% needs {PREAMBLE}\n" + "\n".join(floats)


def figures_tex(names: Sequence[str], rows: Sequence[Row]) -> str:
    """A float for each figure, with machine, samples and batch sizes in its caption.

    Args:
        names: Of the PDF files, without the suffix; they lie beside the document.
        rows: What they show.
    """
    shown = [
        "\\begin{figure}[htbp]\n\\centering\n"
        rf"\includegraphics[width=\linewidth,height=0.8\textheight,keepaspectratio]{{{name}}}"
        f"\n\\caption{{{escape(figure_caption(name, rows))}}}\n"
        f"\\label{{fig:pqbench-{name}}}\n\\end{{figure}}\n"
        for name in names
    ]
    return "% needs \\usepackage{graphicx}\n" + "\n".join(shown)


def figure_caption(name: str, rows: Sequence[Row]) -> str:
    """What a figure shows; without batch sizes where the figure is not about latency."""
    every = batch_sizes(rows)
    if name in _SIZES:
        sizes = list(dict.fromkeys(every[i] for i in _SIZES[name])) if every else []
    else:
        sizes = every if name == "latency_batch" else []
    return caption(_FIGURES.get(name, name), rows, sizes)


def document(parts: Sequence[str], cites: bool = False) -> str:
    """A whole document that shows the parts; each can be taken into a thesis as it is.

    Args:
        parts: Names of the LaTeX files beside it.
        cites: Texts cite works of ``references.bib``.
    """
    return "\n".join(
        [
            r"\documentclass[a4paper,11pt]{article}",
            r"\usepackage[margin=2.2cm]{geometry}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage{textcomp,graphicx,url}",
            PREAMBLE,
            r"\begin{document}",
            *(f"\\input{{{name}}}\n" for name in parts),  # each begins a paragraph
            *([r"\bibliographystyle{plain}", r"\bibliography{references}"] if cites else []),
            r"\end{document}",
            "",
        ]
    )
