"""Jobs that run in this process see and leave what Hydra's own launcher gives them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins import pqbench_search
from pqbench.app import job
from pqbench.app.arguments import config_folder
from pqbench.app.composition import sweep_loader

JOBS = [["model=resnet18", "compress=[prune,ort_int8]", f"seed={seed}"] for seed in (0, 1)]
# Else the handlers of the test run would be replaced.
QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]


@pytest.fixture
def hydra() -> Iterator[Hydra]:
    state = copy.copy(Singleton.get_state())
    assert callable(job.run)  # importing it makes the schema known
    pqbench_search.register()
    GlobalHydra.instance().clear()
    version.setbase("1.3")  # as the program does
    yield Hydra.create_main_hydra2("pqbench", create_config_search_path(str(config_folder())))
    GlobalHydra.instance().clear()
    Singleton.set_state(state)


def told(text: str, folder: Path) -> str:
    return text.replace(str(folder), "FOLDER")


def launched(hydra: Hydra, kind: type[BasicLauncher], folder: Path, *more: str) -> list[Any]:
    """What each job sees and what comes back of it."""
    seen: list[Any] = []

    def task(config: DictConfig) -> int:
        own: Any = HydraConfig.get()
        seen.append(
            (
                told(OmegaConf.to_yaml(config), folder),
                OmegaConf.is_struct(config),
                told(own.runtime.output_dir, folder),
                (own.job.num, own.job.id, own.mode, list(own.overrides.task)),
                OmegaConf.is_readonly(own),
                str(Path.cwd().relative_to(folder)) if own.job.chdir else None,
            )
        )
        if config.seed == 1:
            raise ValueError("of one job")
        return int(config.seed)

    master = hydra.compose_config(
        "config",
        [*QUIET, *more, "seed=0,1", f"hydra.sweep.dir={folder}"],
        RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    launcher = kind()
    loader = sweep_loader()
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher.setup(hydra_context=context, task_function=task, config=master)
    assert not HydraConfig.initialized()
    for result in launcher.launch(JOBS, 3):
        assert result.hydra_cfg is not None and result.cfg is not None
        seen.append(
            (
                result.status,
                repr(result._return_value),
                result.overrides,
                result.task_name,
                told(str(result.working_dir), folder),
                told(OmegaConf.to_yaml(result.cfg), folder),
                told(OmegaConf.to_yaml(result.hydra_cfg.hydra), folder),
            )
        )
    assert not HydraConfig.initialized()
    return seen


def files(folder: Path) -> dict[str, Any]:
    return {
        path.relative_to(folder).as_posix(): yaml.safe_load(told(path.read_text(), folder))
        for path in folder.rglob("*.yaml")
    }


@pytest.mark.parametrize(
    "more",
    [[], ["hydra.job.chdir=true"], ["+hydra.job.env_set.OF_A_JOB=1"], ["hydra.output_subdir=null"]],
)
def test_job_sees_and_leaves_what_hydras_own_launcher_gives(
    hydra: Hydra, tmp_path: Path, more: list[str]
) -> None:
    ours = launched(hydra, pqbench_search.LocalLauncher, tmp_path / "ours", *more)
    theirs = launched(hydra, BasicLauncher, tmp_path / "theirs", *more)
    assert ours == theirs
    assert [one[0] for one in ours[2:]] == [JobStatus.COMPLETED, JobStatus.FAILED]
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert len(files(tmp_path / "ours")) == (0 if "hydra.output_subdir=null" in more else 6)


def test_launcher_of_ours_is_the_one_that_hydra_takes_by_itself(hydra: Hydra) -> None:
    master = hydra.compose_config(
        "config", ["seed=0,1"], RunMode.MULTIRUN, with_log_configuration=False
    )
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    found = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=lambda config: config, config=master
    )
    assert type(found) is pqbench_search.LocalLauncher
