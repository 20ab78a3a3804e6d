"""Search by Optuna: ask for experiments, run them through Hydra's launcher, tell how they ended.

Nothing of a search is stored but its experiments. The choice is seeded and depends only on what was
told, so the same command chooses the same again, finds those experiments finished, and goes on
after the last one.

Multi-objective: NSGA-II (Deb et al., 2002, https://doi.org/10.1109/4235.996017) or TPE with
constraints, as Optuna has them. Constraints weigh in the search and decide what is on the front.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.app.recipe_settings import Fitting, step_of
from pqbench.app.search_space import SAMPLERS, grid, make_sampler, search_space
from pqbench.core.errors import ConfigError, DataError, PqbenchError
from pqbench.core.files import write_json
from pqbench.core.record import Record
from pqbench.tracking.content import metrics

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from omegaconf import DictConfig
    from optuna import Study
    from optuna.trial import Trial

log = logging.getLogger("pqbench")

FILE = "search.json"
DIRECTIONS = ("minimize", "maximize")
# What a baseline has of the figures that compare with it.
_OF_A_BASELINE = {"accuracy/drop_pt": 0.0, "size/file_ratio": 1.0}
_SAME_AGAIN = 200  # choices that were made before, in a row, before the search is over


@dataclass
class Found:
    """One experiment of a search.

    Attributes:
        overrides: What was chosen.
        folder: Its folder, relative to the sweep's.
        status: How it ended.
        values: Its objectives, in order; None if it has no result.
        violations: By how much each constraint is exceeded; 0 or less is fine.
        on_front: Whether no other accepted experiment is at least as good in all objectives and
            better in one.
    """

    overrides: list[str]
    folder: str
    status: str
    values: list[float] | None
    violations: list[float]
    on_front: bool = False

    @property
    def accepted(self) -> bool:
        """Whether there is a result that keeps all constraints."""
        return self.values is not None and all(v <= 0 for v in self.violations)


class Search:
    """A search on its way.

    Args:
        config: The composed configuration of the sweep.
        launcher: Hydra's launcher, set up.
        arguments: Overrides of the command line; sweeps among them add to the space.
        sampler: One of ``SAMPLERS``.
        n_trials: Experiments to run.
        n_jobs: Experiments asked for at once.
        seed: Seeds the choice.
        objectives: Metric to direction.
        constraints: Metric to the highest value accepted.
        params: Search space, key to Hydra's sweep syntax.
        steps_of: The steps in the recipe of some overrides: settings of others are left out.

    Raises:
        ConfigError: The search is invalid.
    """

    def __init__(
        self,
        config: DictConfig,
        launcher: Launcher,
        arguments: Sequence[str],
        *,
        sampler: str,
        n_trials: int,
        n_jobs: int,
        seed: int,
        objectives: Mapping[str, str],
        constraints: Mapping[str, float],
        params: Mapping[str, str],
        steps_of: Callable[[list[str]], set[str]],
    ) -> None:
        if sampler not in SAMPLERS:
            raise ConfigError(f"sampler={sampler} is not possible", f"it is one of {SAMPLERS}")
        if not objectives or any(d not in DIRECTIONS for d in objectives.values()):
            raise ConfigError(
                f"objectives={dict(objectives)} is not possible",
                hint="give each metric minimize or maximize",
            )
        self.folder = Path(config.hydra.sweep.dir)
        self.launcher = launcher
        self.objectives = dict(objectives)
        self.constraints = dict(constraints)
        self.n_trials, self.n_jobs = n_trials, max(1, n_jobs)
        self.fixed, self.space = search_space(params, arguments)
        if not self.space:
            raise ConfigError(
                "the search has nothing to choose from",
                hint="set hydra.sweeper.params, or give a sweep such as compress=none,nncf_int8",
            )
        self.fitting = Fitting(steps_of)
        self._refuse_settings_of_no_recipe()
        self.study = self._study(sampler, seed)
        self.found: list[Found] = []

    def _refuse_settings_of_no_recipe(self) -> None:
        settings = [key for key in self.space if step_of(f"{key}=")]
        if not settings:
            return
        recipes = getattr(self.space.get("compress"), "choices", (None,))
        steps: set[str] = set()
        for recipe in recipes:
            steps |= self.fitting.steps_of(
                [*self.fixed, *([] if recipe is None else [f"compress={recipe}"])]
            )
        for key in settings:
            if step_of(f"{key}=") not in steps:
                raise ConfigError(
                    f"{key}: no recipe of the search has a step '{step_of(f'{key}=')}'",
                    hint=f"the steps are: {', '.join(sorted(steps)) or 'none'}",
                )

    def _study(self, sampler: str, seed: int) -> Study:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError(
                "search needs Optuna", hint="pip install 'pqbench[optuna]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            directions=[str(d) for d in self.objectives.values()],  # type: ignore[misc]
            sampler=make_sampler(sampler, seed),
        )
        if sampler == "grid":
            points = grid(self.space)
            self.n_trials = min(self.n_trials, len(points))
            for point in points:
                study.enqueue_trial(point)
        return study

    def run(self) -> list[list[Any]]:
        """Run all trials.

        Returns:
            Hydra's job returns, by batch.
        """
        returns = []
        seen: dict[tuple[str, ...], Found] = {}
        while len(self.found) < self.n_trials:
            batch = self._ask(seen, min(self.n_jobs, self.n_trials - len(self.found)))
            if not batch:
                log.info("the search has chosen everything it can find")
                break
            overrides = [self.fitting.fitted([*self.fixed, *choice]) for _, choice in batch]
            jobs = self.launcher.launch(overrides, initial_job_idx=len(self.found))
            returns.append(list(jobs))
            for (trial, choice), job in zip(batch, jobs, strict=True):
                folder = Path(_folder(job))
                found = self._judge(choice, folder)
                seen[tuple(choice)] = found
                self.found.append(found)
                self._tell(trial, found)
            self._save()
        for line in self.front_lines():
            log.info("%s", line)
        return returns

    def _ask(
        self, seen: Mapping[tuple[str, ...], Found], count: int
    ) -> list[tuple[Trial, list[str]]]:
        """New choices; what was chosen before is told at once and not run again."""
        batch: list[tuple[Trial, list[str]]] = []
        again = 0
        while len(batch) < count and again < _SAME_AGAIN:
            trial = self.study.ask(self.space)
            chosen = [f"{key}={trial.params[key]}" for key in self.space]
            fitted = self.fitting.fitted([*self.fixed, *chosen])
            choice = [override for override in chosen if override in fitted]
            if tuple(choice) in seen:
                again += 1
                self._tell(trial, seen[tuple(choice)])
            elif any(choice == other for _, other in batch):
                again += 1
                self._fail(trial)
            else:
                again = 0
                batch.append((trial, choice))
        return batch

    def _tell(self, trial: Trial, found: Found) -> None:
        if found.values is None:
            self._fail(trial)
            return
        for name, violation in zip(self.constraints, found.violations, strict=True):
            trial.set_constraint(name, violation)
        self.study.tell(trial, found.values)

    def _fail(self, trial: Trial) -> None:
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.FAIL)

    def _judge(self, choice: list[str], folder: Path) -> Found:
        """What came out of one experiment."""
        relative = folder.name
        try:
            record = Record.load(folder)
        except DataError:
            return Found(choice, relative, "failed", None, [])
        if not record.ok:
            return Found(choice, relative, record.status, None, [])
        values = [value_of(record, name) for name in self.objectives]
        limits = [value_of(record, name) for name in self.constraints]
        names = (*self.objectives, *self.constraints)
        pairs = zip(names, (*values, *limits), strict=True)
        missing = [name for name, value in pairs if value is None]
        if missing:
            log.warning("  %s has no %s, so the search cannot use it", relative, missing[0])
            return Found(choice, relative, record.status, None, [])
        highest = self.constraints.values()
        return Found(
            choice,
            relative,
            record.status,
            [v for v in values if v is not None],
            [v - limit for v, limit in zip(limits, highest, strict=True) if v is not None],
        )

    def _save(self) -> None:
        """Write ``search.json``: what was tried, and which of it is on the front."""
        mark_front(self.found, list(self.objectives.values()))
        write_json(
            self.folder / FILE,
            {
                "objectives": self.objectives,
                "constraints": self.constraints,
                "trials": [asdict(f) for f in self.found],
            },
        )

    def front_lines(self) -> list[str]:
        """The front for people, best in the first objective first."""
        front = [f for f in self.found if f.on_front and f.values is not None]
        sign = 1 if next(iter(self.objectives.values())) == "minimize" else -1
        front.sort(key=lambda f: sign * f.values[0] if f.values else 0.0)
        lines = [f"Front: {len(front)} of {len(self.found)} experiments ({self.folder / FILE})"]
        for one in front:
            figures = ", ".join(
                f"{name} {value:.4g}"
                for name, value in zip(self.objectives, one.values or (), strict=True)
            )
            lines.append(f"  {' '.join(one.overrides)}: {figures}")
        return lines


def _folder(job: JobReturn) -> str:
    if job.hydra_cfg is None:
        raise PqbenchError("the launcher does not say where an experiment went")
    return str(job.hydra_cfg.hydra.runtime.output_dir)


def value_of(record: Record, name: str) -> float | None:
    """A metric of a record by its name in MLflow; a baseline equals itself."""
    value = metrics(record).get(name)
    if value is None and record.is_baseline:
        return 1.0 if name.startswith("speedup/") else _OF_A_BASELINE.get(name)
    return value


def mark_front(found: Sequence[Found], directions: Sequence[str]) -> None:
    """Set ``on_front`` of the accepted experiments that no other dominates."""
    signs = [1.0 if d == "minimize" else -1.0 for d in directions]
    points = {
        i: [s * v for s, v in zip(signs, f.values, strict=True)]
        for i, f in enumerate(found)
        if f.accepted and f.values is not None
    }
    for i, one in enumerate(found):
        one.on_front = i in points and not any(
            all(a <= b for a, b in zip(other, points[i], strict=True)) and other != points[i]
            for other in points.values()
        )
