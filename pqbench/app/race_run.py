"""A race on its way: looks are launched, records read back, the trail is kept."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.app.check import check_reference
from pqbench.app.entrant import Entrant
from pqbench.app.race import Race
from pqbench.app.race_past import Before, known_ms
from pqbench.core import interrupt
from pqbench.core.errors import ConfigError, DataError, PqbenchError
from pqbench.core.files import write_json
from pqbench.core.margins import Margins
from pqbench.core.record import Record
from pqbench.report.answer_cells import precision_of
from pqbench.report.load import LOOKS
from pqbench.report.trail import FILE

if TYPE_CHECKING:
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig

log = logging.getLogger("pqbench")


_SECONDS = {"s": 1, "m": 60, "h": 3600}
SCREENING = 0.5  # of the budget at most goes to first looks: the rest must end in an answer


def seconds_of(budget: str) -> float:
    """Seconds of ``90s``, ``30m`` or ``2h``.

    Raises:
        ConfigError: It is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"budget={budget} is not possible", hint="write it as 90s, 30m or 2h")
    return float(found[1]) * _SECONDS[found[2]]


@dataclass(frozen=True)
class Step:
    """One line of the trail.

    Attributes:
        at_s: Seconds of the search, all its attempts together.
        cell: What was chosen.
        look: Number of the look, from 1; 0 where a cell fell by another's look.
        status: Of the look.
        ms: Time per call as it was then known, with both ends; None: unknown.
        drop: Lost, gained and all samples; None: unknown.
        dropped: Why the cell is out since then; empty if it is not.
    """

    at_s: float
    cell: str
    look: int
    status: str
    ms: tuple[float, float, float] | None
    drop: tuple[int, int, int] | None
    dropped: str


class RaceRun:
    """Launches the looks of a race.

    Args:
        folder: Of the sweep.
        launcher: Hydra's launcher, set up.
        jobs: The cells: overrides of each.
        composed: Composes the configuration of some overrides.
        looks: Overrides of each look, the cheapest first; the full measurement has none.
        budget_s: Longest time; a look that has begun is finished.
        n_jobs: Looks at once, for launchers that run several.
        margins: The question.
        earlier: Records of this machine from before, for what to look at first.
    """

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        jobs: Sequence[Sequence[str]],
        composed: Callable[[list[str]], DictConfig],
        *,
        looks: Sequence[Sequence[str]],
        budget_s: float,
        n_jobs: int,
        margins: Margins,
        earlier: Sequence[Record] = (),
    ) -> None:
        if len(jobs) < 2:
            raise ConfigError(
                "the search has nothing to choose from",
                hint="give a sweep such as compress=none,nncf_int8,ort_int8 backend=ort,openvino",
            )
        self.folder, self.launcher = folder, launcher
        self.looks = [list(look) for look in looks]
        self.budget_s, self.n_jobs = budget_s, max(1, n_jobs)
        self.short: dict[int, list[str]] = {}
        known = known_ms(earlier)
        differing = {o for o in jobs[0] for job in jobs if o not in job}
        fixed = set(jobs[0]) - differing
        entrants, claims = [], 2
        threads = set()
        for number, job in enumerate(jobs):
            config = composed(list(job))
            threads.add(config.get("threads"))
            steps = config.get("compress") or {}
            trains = [name for name, step in steps.items() if "max_steps" in step]
            self.short[number] = [f"compress.{name}.max_steps=1" for name in trains]
            group = f"{config.model.name} · {config.dataset.name}"
            sizes = (config.get("protocol") or {}).get("batch_sizes") or [1]
            claims = max(claims, 1 + len(sizes))
            what = (str(config.model.name), "+".join(steps) or "none", str(config.backend.name))
            entrants.append(
                Entrant(
                    number, tuple(job), group, str(config.backend.name),
                    " ".join(o for o in job if o not in fixed), not steps,
                    precision_of(config.backend) == "FP32", bool(trains), min(sizes),
                    known.get(what),
                )
            )  # fmt: skip
        if len(threads) > 1:
            raise ConfigError(
                "a search compares cells under the same number of threads",
                hint="give one: threads=2; how a model scales with them is a sweep of its own",
            )
        check_reference(margins.reference, [entrant.backend for entrant in entrants])
        self.before = Before.read(folder)
        if list(self.before.prior) != [" ".join(entrant.overrides) for entrant in entrants]:
            self.before = Before()  # of another space
        for entrant in entrants if self.before.prior else ():
            entrant.prior_ms = self.before.prior[" ".join(entrant.overrides)]
        self.race = Race(entrants, len(self.looks) + 1, margins, claims)
        self.trail: list[Step] = []
        self.launched = 0
        self.screened = self.before.screened if budget_s <= self.before.budget_s else None
        self.spent_s = 0.0

    def run(self) -> list[list[Any]]:
        """Look until all is decided or the budget is spent.

        Returns:
            Hydra's job returns, by batch.
        """
        returns = []
        started = time.monotonic()
        while True:
            interrupt.check()
            replays = self.launched < self.before.launched  # its looks are found, at no cost
            if replays:
                started = time.monotonic()
            self.spent_s = self.before.spent_s + time.monotonic() - started
            chosen = self.race.next(self.n_jobs, self._screens(replays))
            if not chosen:
                break
            if self.spent_s >= self.budget_s and not replays:
                log.info("the budget is spent: %d cells are not decided", len(self._open()))
                break
            if references := self.race.references(chosen):
                returns.append(self._look(references, full=True))
                chosen = [entrant for entrant in chosen if entrant not in references]
            if chosen:
                returns.append(self._look(chosen))
            self.spent_s = self.before.spent_s + time.monotonic() - started
            for entrant in self.race.settle():
                self._note(entrant, 0, "")
            if self.launched >= self.before.launched:
                self._save()
        self._save()
        for line in self.lines():
            log.info("%s", line)
        return returns

    def _screens(self, replays: bool) -> bool:
        """Whether cells that were not looked at yet come first."""
        if replays:  # as it was then
            return self.before.screened is None or self.launched < self.before.screened
        if self.screened is None and self.spent_s >= SCREENING * self.budget_s:
            self.screened = self.launched
        return self.screened is None

    def _look(self, chosen: Sequence[Entrant], full: bool = False) -> list[Any]:
        overrides = []
        looks = [len(self.looks) if full else self.race.upcoming(entrant) for entrant in chosen]
        for place, (entrant, look) in enumerate(zip(chosen, looks, strict=True)):
            extra: list[str] = []
            if look < len(self.looks):
                number = self.launched + place
                extra = [f"protocol.batch_sizes=[{entrant.smallest}]", *self.looks[look]]
                extra.append("tracking.enabled=false")
                extra.append(f"hydra.sweep.subdir={LOOKS}/{number}_look{look + 1}")
                if look == 0:
                    extra += self.short[entrant.number]
            overrides.append([*entrant.overrides, *extra])
        jobs = list(self.launcher.launch(overrides, initial_job_idx=self.launched))
        self.launched += len(jobs)
        for entrant, look, job in zip(chosen, looks, jobs, strict=True):
            _ = job.return_value  # raises what ended the job
            if job.hydra_cfg is None:
                raise PqbenchError("the launcher does not say where an experiment went")
            record = _read(Path(str(job.hydra_cfg.hydra.runtime.output_dir)))
            self.race.tell(entrant, record, look)
            self._note(entrant, entrant.looks, record.status if record else "failed")
        return jobs

    def _note(self, entrant: Entrant, look: int, status: str) -> None:
        ms = self.race.milliseconds(entrant)
        at_s, number = round(self.spent_s, 1), len(self.trail)
        if number < len(self.before.trail) and self.before.trail[number]["cell"] == entrant.name:
            at_s = float(self.before.trail[number]["at_s"])  # of the attempt that looked
        self.trail.append(
            Step(at_s, entrant.name, look, str(status), ms, entrant.counts, entrant.dropped)
        )
        if entrant.dropped:
            log.info("  dropped: %s: %s", entrant.name, entrant.dropped)

    def _open(self) -> list[Entrant]:
        return [e for e in self.race.entrants if not e.dropped and e.looks < self.race.looks]

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(
            self.folder / FILE,
            {
                "kind": "best",
                "spent_s": round(self.spent_s, 1),
                "budget_s": self.budget_s,
                "cells": len(self.race.entrants),
                "full": sum(e.looks == self.race.looks for e in self.race.entrants),
                "unseen": self.race.unseen,
                "launched": self.launched,
                "screened": self.screened,
                "prior": {" ".join(e.overrides): e.prior_ms for e in self.race.entrants},
                "undecided": [e.name for e in self._open()],
                "trail": [asdict(step) for step in self.trail],
            },
        )

    def lines(self) -> list[str]:
        """The search in a few lines."""
        everyone = self.race.entrants
        full = [e for e in everyone if e.looks == self.race.looks]
        said = (
            f"Search: {len(everyone)} cells, {len(full)} measured in full, "
            f"{sum(bool(e.dropped) for e in everyone)} dropped on evidence, "
            f"{len(self._open())} not decided ({self.folder / FILE})"
        )
        if not full:
            said += (
                ". None was measured in full, so there is no answer yet: the same command with a "
                "larger budget goes on from these looks"
            )
        return [said]


def _read(folder: Path) -> Record | None:
    try:
        return Record.load(folder)
    except DataError:
        return None
