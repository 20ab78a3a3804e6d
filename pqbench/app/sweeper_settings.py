"""The nodes of pqbench's sweepers and launcher, which are in ``hydra_plugins``."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_launcher import BasicLauncherConf
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf


@dataclass
class SearchConf:
    """The node ``hydra.sweeper``; see ``conf/search/``.

    Attributes:
        sampler: ``nsga2``, ``tpe``, ``random`` or ``grid``.
        n_trials: Experiments to run, without their baselines.
        n_jobs: Experiments that are asked for at once, for launchers that run several.
        seed: Seeds the choice.
        objectives: Names of metrics, as in MLflow, each ``minimize`` or ``maximize``.
        constraints: Names of metrics, each with the highest value that is accepted.
        params: Search space: overrides by key, in Hydra's words ``choice(a,b)``, ``range(1,9)``
            and ``interval(0.1,0.5)``.
    """

    _target_: str = "hydra_plugins.pqbench_search.SearchSweeper"
    sampler: str = "nsga2"
    n_trials: int = 20
    n_jobs: int = 1
    seed: int = 0
    objectives: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


@dataclass
class RecipeConf(BasicSweeperConf):
    """The node ``hydra.sweeper`` of sweeps that are not searches."""

    _target_: str = "hydra_plugins.pqbench_search.RecipeSweeper"


@dataclass
class LocalConf(BasicLauncherConf):
    """The node ``hydra.launcher`` of jobs that run in this process, one after another."""

    _target_: str = "hydra_plugins.pqbench_search.LocalLauncher"


@dataclass
class RaceConf:
    """The node ``hydra.sweeper`` of ``search=best``; see ``conf/search/best.yaml``.

    Attributes:
        budget: Longest time, as ``90s``, ``30m`` or ``2h``; a look that has begun is finished.
        n_jobs: Looks at once, for launchers that run several.
        looks: Overrides of each look, the cheapest first; the full measurement comes after them.
        params: The space: overrides by key, in Hydra's words for lists.
        max_batch_size: Not used.
    """

    _target_: str = "hydra_plugins.pqbench_search.RaceSweeper"
    budget: str = "30m"
    n_jobs: int = 1
    looks: list[list[str]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    max_batch_size: int | None = None
