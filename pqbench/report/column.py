"""A column of a table as one object: what it shows, why not, how rows compete in it.

The columns themselves are in :mod:`pqbench.report.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from pqbench.report.rows import Estimate, Row

Value = Estimate | float | int | str | None
LAST = 99  # the rank of a column that a narrow terminal drops first


class Kind(StrEnum):
    """What a column is for."""

    GROUP = "group"  # rows that follow each other share it: model, data set, backend, machine
    RECIPE = "recipe"
    NUMBER = "number"
    STATUS = "status"


@dataclass(frozen=True)
class Contest:
    """How rows compete in a column for bold print.

    Attributes:
        within: Rows of which this is equal compete with each other.
        more_is_better: Otherwise less is.
        by: What decides where it is not the figure that is shown.
        ratio: Figures are compared by their ratio, otherwise by their difference.
        beats_baseline: Only what is shown to be better than the baseline may win.
    """

    within: Callable[[Row], tuple[str, ...]]
    more_is_better: bool
    by: Callable[[Row], Estimate | None] | None = None
    ratio: bool = True
    beats_baseline: bool = False


def three_digits(value: float) -> int:
    """Decimals that show about three significant digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3


def _nothing(_row: Row) -> tuple[str, ...]:
    return ()


def _no_text(_row: Row) -> str:
    return ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: In CSV and JSON, with its unit; also what marks and verdicts refer to.
        title: In a header.
        value: The figure or text of a row; None where there is none.
        unit: In the header, in brackets.
        at: What the figure was taken at, e.g. ``batch 16``: the header's second line.
        kind: What it is for.
        interval: The value is an :class:`Estimate`.
        decimals: How many a value is shown with.
        detail: What stands below a value that has no interval, e.g. its ratio.
        detail_title: What that is, for the header.
        reasons: Paths in the record's ``reasons`` that explain a missing value.
        notes: Footnotes of a row's cell.
        contest: How rows compete for bold print; None where they do not.
        legend: How to read it; empty if the header says it all.
        rank: Importance: where there is little room, the highest ranks are left out.
        plain: What CSV holds, where it is not the value shown.
    """

    name: str
    title: str
    value: Callable[[Row], Value]
    unit: str = ""
    at: str = ""
    kind: Kind = Kind.NUMBER
    interval: bool = False
    decimals: Callable[[float], int] = three_digits
    detail: Callable[[Row], str] = _no_text
    detail_title: str = ""
    reasons: tuple[str, ...] = ()
    notes: Callable[[Row], Iterable[str]] = _nothing
    contest: Contest | None = None
    legend: str = ""
    rank: int = LAST
    plain: Callable[[Row], Value] | None = None

    @property
    def numeric(self) -> bool:
        """Whether it holds figures, which stand flush right."""
        return self.kind is Kind.NUMBER

    @property
    def header(self) -> str:
        """Title, unit and place in one line: ``p50 [ms], batch 1``."""
        unit = f" [{self.unit}]" if self.unit else ""
        detail = f" ({self.detail_title})" if self.detail_title else ""
        return f"{self.title}{unit}{detail}{f', {self.at}' if self.at else ''}"

    def reason(self, row: Row) -> str | None:
        """Why there is no value, if the record says so."""
        reasons = row.record.reasons
        return next((reasons[path] for path in self.reasons if path in reasons), None)

    def text(self, value: float) -> str:
        """A figure as it is shown; never minus zero."""
        decimals = self.decimals(value)
        return f"{round(value, decimals) + 0.0:.{decimals}f}"
