"""Hydra's door to pqbench's search: Hydra takes sweepers only from below ``hydra_plugins``."""

# No `from __future__ import annotations`: Hydra's scan runs this file outside sys.modules, where a
# dataclass cannot look up annotations that are text.
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


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


class SearchSweeper(Sweeper):
    """Asks Optuna what to run next; see :mod:`pqbench.app.search`."""

    config: "DictConfig | None" = None
    launcher: "Launcher | None" = None

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        """Take what Hydra gives."""
        from hydra.core.plugins import Plugins

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search until all trials are done; arguments of the command line add to the space."""
        from pqbench.app.search import Search

        if self.config is None or self.launcher is None:
            raise RuntimeError("setup() comes before sweep()")
        return Search(self.config, self.launcher, arguments, **self.options).run()


class RecipeSweeper(BasicSweeper):
    """Hydra's own sweeper, which leaves a step's settings out of recipes without that step."""

    def __init__(self, max_batch_size: "int | None", params: "DictConfig | None" = None) -> None:
        # Hydra's scan runs its own file twice: BasicSweeper's __init__ would not know this class.
        self.overrides = None
        self.batch_index = 0
        self.max_batch_size = max_batch_size
        self.params: Any = params if params is not None else OmegaConf.create({})
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def validate_batch_is_legal(self, batch: "Sequence[Sequence[str]]") -> None:
        """Nothing to do: every job was composed and checked before the sweep's folder was made."""

    def split_arguments(  # type: ignore[override]  # static there: here it must know the recipes
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job, in batches; see :mod:`pqbench.app.recipe_settings`."""
        from pqbench.app.recipe_settings import fit_to_recipes

        assert self.hydra_context is not None
        loader, config = self.hydra_context.config_loader, self.config
        assert config is not None

        def steps_of(rest: list[str]) -> set[str]:
            return set(loader.load_sweep_config(config, rest).compress)

        batches = BasicSweeper.split_arguments(overrides, None)
        jobs = fit_to_recipes([job for batch in batches for job in batch], steps_of)
        size = max_batch_size or len(jobs)
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]


@dataclass
class RecipeConf(BasicSweeperConf):
    """The node ``hydra.sweeper`` of sweeps that are not searches."""

    _target_: str = "hydra_plugins.pqbench_search.RecipeSweeper"


def register() -> None:
    """Make both sweepers known to Hydra, the second in the place of its own ``basic``."""
    from hydra.core.plugins import Plugins

    for sweeper in (SearchSweeper, RecipeSweeper):
        Plugins.instance().register(sweeper)  # Hydra's scan does not see an editable install
    ConfigStore.instance().store(
        group="hydra/sweeper", name="basic", node=RecipeConf, provider="pqbench"
    )


ConfigStore.instance().store(
    group="hydra/sweeper", name="pqbench_search", node=SearchConf, provider="pqbench"
)
