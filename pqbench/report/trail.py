"""The trail of ``search=best``: which cells fell when, and on what evidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.core.errors import DataError
from pqbench.core.files import read_limited

FILE = "search.json"
HEADER = ("after [s]", "cell", "look", "status", "ms", "ms low", "ms high", "lost", "of", "dropped")


@dataclass(frozen=True)
class Trail:
    """What a search did.

    Attributes:
        cells: Cells of the space.
        full: How many were measured in full.
        spent_s: Seconds that it took.
        undecided: Cells that were neither dropped nor measured in full.
        steps: Looks and falls, in order; see :class:`pqbench.app.race_run.Step`.
        unseen: Claims that must be counted although no record here holds them: drops of cells that
            were scored, and so chosen among, but not measured in full.
    """

    cells: int
    full: int
    spent_s: float
    undecided: Sequence[str]
    steps: Sequence[dict[str, Any]]
    unseen: int

    def lines(self) -> list[str]:
        """The search in a few sentences."""
        fallen = {step["cell"] for step in self.steps if step["dropped"]}
        said = [
            f"Searched: of {self.cells} cells {self.full} were measured in full, {len(fallen)} "
            f"were dropped on cheaper looks, in {self.spent_s / 60:.0f} min; search.md says why."
        ]
        if self.undecided:
            said.append(
                f"The budget was spent before {len(self.undecided)} cells were decided: "
                f"{'; '.join(self.undecided[:4])}{'; ...' if len(self.undecided) > 4 else ''}."
            )
        return said

    def rows(self) -> list[tuple[str, ...]]:
        """The steps as text, for ``HEADER``."""
        found = []
        for step in self.steps:
            ms = [f"{value:.3g}" for value in step["ms"] or ()] or [""] * 3
            lost, gained, count = step["drop"] or ("", "", "")
            loss = "" if lost == "" else str(int(lost) - int(gained))
            look = str(step["look"] or "")
            found.append(
                (f"{step['at_s']:.0f}", step["cell"], look, step["status"], *ms, loss, str(count),
                 step["dropped"])
            )  # fmt: skip
        return found


def read_trail(folder: Path | None) -> Trail | None:
    """The trail in a sweep's folder; None if it was no such search."""
    if folder is None or not (folder / FILE).is_file():
        return None
    try:
        found = json.loads(read_limited(folder / FILE))
        if found.get("kind") != "best":
            return None
        steps = [dict(step) for step in found["trail"]]
        cells, full = int(found["cells"]), int(found["full"])
        trail = Trail(
            cells, full, float(found["spent_s"]),
            [str(name) for name in found["undecided"]], steps,
            int(found.get("unseen", 2 * max(cells - full, 0))),
        )  # fmt: skip
        trail.rows()
    except (DataError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return trail
