"""Text from a record, made harmless where it is printed.

A record may come from anyone: a model's name, an error's message or a path can hold what a
terminal, a Markdown reader, LaTeX, a spreadsheet or a browser would act upon.
"""

from __future__ import annotations

import re
import unicodedata

from pqbench.core.terminal import printable

_PLAIN = re.compile(r"[ !'()*+,\-./0-9:;=?@A-Z\[\]a-z]*")  # no reader acts upon these in LaTeX
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BREAKS = re.compile(r"[\r\n\t]+")
_MARKDOWN = re.compile(r"([\\`*_\[\]|#~!$])")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
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


def terminal(text: str) -> str:
    r"""One line without control characters: an escape sequence is shown as ``\x1b``, not obeyed."""
    return text if text.isascii() and text.isprintable() else printable(_BREAKS.sub(" ", text))


def markdown(text: str) -> str:
    """Plain text for a cell of a GitHub table: no markup, no HTML, one line."""
    shown = _MARKDOWN.sub(r"\\\1", terminal(text))
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(text: str) -> str:
    """Plain text for LaTeX; what pdflatex has no glyph for becomes its nearest ASCII, or ``?``."""

    def one(c: str) -> str:
        if c in _LATEX:
            return _LATEX[c]
        if c.isspace():
            return " "
        if " " <= c <= "~" or "\u00c0" <= c <= "\u00ff":
            return c
        return unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?"

    if _PLAIN.fullmatch(text):
        return text
    return "".join(one(c) for c in terminal(text))


def spreadsheet(value: object) -> object:
    """A cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe.

    See https://owasp.org/www-community/attacks/CSV_Injection. Numbers stay as they are.
    """
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
