"""The jobs of a sweep in this process, one after another: Hydra's basic launcher at less cost.

Hydra copies the configuration of every job four times node by node and writes it with a YAML
emitter in Python, which takes longer than to find a finished experiment. Here it is copied once, as
bytes, and written by libyaml. What a job sees and what lies in its folder is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper

from pqbench.app.composition import copied, drop_hydra
from pqbench.app.shown import as_given

log = logging.getLogger("hydra._internal.core_plugins.basic_launcher")  # as it is configured


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """OmegaConf's way to write, by libyaml where PyYAML was built with it."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    jobs: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs.

    Args:
        context: Hydra's loader and callbacks.
        task: Runs one job.
        config: The sweep's.
        jobs: The overrides of each.
        first: Number of the first.
    """
    setup_globals()
    between: Any = OmegaConf.to_container(config.hydra.hydra_logging, resolve=True)
    between = OmegaConf.create(between)  # resolving it takes longer than configuring
    configure_log(between, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info("Launching %d jobs locally", len(jobs))
    done = []
    for number, overrides in enumerate(jobs, start=first):
        log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        job = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(job):
            job.hydra.job.id = number
            job.hydra.job.num = number
        done.append(_run(context, task, job))
        configure_log(between, config.hydra.verbose)
    return done


def _run(context: HydraContext, task: TaskFunction, config: DictConfig) -> JobReturn:
    """One job."""
    own = config.hydra.job
    if own.chdir or own.env_set:  # rare: in Hydra's own way
        return run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    known: Any = HydraConfig.instance()
    outer = known.cfg
    known.cfg = config  # Hydra makes copies of it; nothing changes it from here on
    try:
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir).absolute()
        with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(folder)
        OmegaConf.set_readonly(config.hydra, True)
        folder.mkdir(parents=True, exist_ok=True)
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        alone = drop_hydra(copied(config))
        if config.hydra.output_subdir is not None:
            _save(config, alone, folder / config.hydra.output_subdir)
        given = as_given(config.hydra.overrides.task)
        found = JobReturn(given, alone, config, str(Path.cwd()))
        context.callbacks.on_job_start(config=config, task_function=task)
        try:
            found.return_value = task(alone)
            found.status = JobStatus.COMPLETED
        except Exception as error:
            found.return_value = error
            found.status = JobStatus.FAILED
        found.task_name = JobRuntime.instance().get("name")
        context.callbacks.on_job_end(config=config, job_return=found)
        return found
    finally:
        known.cfg = outer


def _save(config: DictConfig, alone: DictConfig, folder: Path) -> None:
    """The three files in which Hydra notes how a job was composed."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "config": _plain(alone),
        "hydra": {"hydra": _plain(config.hydra)},
        "overrides": _plain(config.hydra.overrides.task),
    }
    for name, value in parts.items():
        with (folder / f"{name}.yaml").open("w", encoding="utf-8") as file:
            yaml.dump(
                value, file, _Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
            )


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False, enum_to_str=True)
