"""Hydra's door to pqbench's search: Hydra takes sweepers only from below ``hydra_plugins``."""

# Hydra's scan runs this file a second time, outside sys.modules: no class of which configurations
# are made may be defined here, or they could not be pickled.
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from pqbench.app.sweeper_settings import LocalConf, RaceConf, RecipeConf, SearchConf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class SearchSweeper(Sweeper):
    """Asks Optuna what to run next; see :mod:`pqbench.app.search`."""

    config: "DictConfig | None" = None
    launcher: "Launcher | None" = None
    hydra_context: "HydraContext | None" = None

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(
        self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig"
    ) -> None:
        """Take what Hydra gives."""
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search until all trials are done; arguments of the command line add to the space."""
        from pqbench.app.search import Search

        if self.config is None or self.launcher is None or self.hydra_context is None:
            raise RuntimeError("setup() comes before sweep()")
        config, loader = self.config, self.hydra_context.config_loader

        def steps_of(rest: list[str]) -> set[str]:
            return set(loader.load_sweep_config(config, rest).compress)

        return Search(config, self.launcher, arguments, steps_of=steps_of, **self.options).run()


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
        flat = [job for batch in batches for job in batch]
        options = loader.get_group_options("compress")
        jobs = fit_to_recipes(flat, steps_of, list(config.hydra.overrides.task), options)
        size = max_batch_size or len(jobs)
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]


class RaceSweeper(RecipeSweeper):
    """Looks at all cells cheaply and at the promising ones closely; see :mod:`pqbench.app.race`."""

    def __init__(
        self,
        budget: str,
        n_jobs: int,
        looks: list[list[str]],
        max_batch_size: "int | None" = None,
        params: "DictConfig | None" = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.budget, self.n_jobs, self.looks = budget, n_jobs, looks

    def sweep(self, arguments: list[str]) -> Any:
        """Race until one cell is the answer or the budget is spent."""
        from pathlib import Path

        from hydra.core.override_parser.overrides_parser import OverridesParser

        from pqbench.app.race_past import earlier_records
        from pqbench.app.race_run import RaceRun, seconds_of

        assert self.config is not None and self.hydra_context is not None
        assert self.launcher is not None
        config, loader = self.config, self.hydra_context.config_loader
        budget_s = seconds_of(self.budget)
        given = [*self._parse_config(), *arguments]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
        jobs = [job for batch in self.split_arguments(overrides, None) for job in batch]
        margins: Any = OmegaConf.to_object(config.claim)
        return RaceRun(
            Path(config.hydra.sweep.dir),
            self.launcher,
            jobs,
            lambda job: loader.load_sweep_config(config, job),
            looks=self.looks,
            budget_s=budget_s,
            n_jobs=self.n_jobs,
            margins=margins,
            earlier=earlier_records(Path(config.outputs)),
        ).run()


class LocalLauncher(BasicLauncher):
    """Hydra's own launcher, at less cost for each job; see :mod:`pqbench.app.local_jobs`."""

    def launch(
        self, job_overrides: "Sequence[Sequence[str]]", initial_job_idx: int
    ) -> "Sequence[JobReturn]":
        """Run the jobs, one after another."""
        from pqbench.app.local_jobs import launch

        assert self.config is not None and self.hydra_context is not None
        assert self.task_function is not None
        return launch(
            self.hydra_context, self.task_function, self.config, job_overrides, initial_job_idx
        )


def register() -> None:
    """Make them known to Hydra, the sweeper and launcher ``basic`` in the place of its own."""
    from hydra.core.plugins import Plugins

    for plugin in (SearchSweeper, RecipeSweeper, RaceSweeper, LocalLauncher):
        Plugins.instance().register(plugin)  # Hydra's scan does not see an editable install
    ConfigStore.instance().store(
        group="hydra/sweeper", name="basic", node=RecipeConf, provider="pqbench"
    )
    ConfigStore.instance().store(
        group="hydra/launcher", name="basic", node=LocalConf, provider="pqbench"
    )


ConfigStore.instance().store(
    group="hydra/sweeper", name="pqbench_race", node=RaceConf, provider="pqbench"
)
ConfigStore.instance().store(
    group="hydra/sweeper", name="pqbench_search", node=SearchConf, provider="pqbench"
)
