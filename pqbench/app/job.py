"""One job of Hydra: a module's function, so that launchers hand it to other processes by name."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pqbench.app.outcome import refuse, say
from pqbench.app.shown import as_given, shown_config
from pqbench.core import interrupt as stop
from pqbench.core.errors import ConfigError, OutputError
from pqbench.core.terminal import UNWRITABLE
from pqbench.experiment import config as schema


def run(config: DictConfig) -> str:
    """Validate, run the experiment, log its records.

    Returns:
        The record's status.

    Raises:
        SystemExit: 2 if the configuration is invalid; 4 if results cannot be written.
        Stopped: The user has asked to stop.
    """
    from pqbench.experiment.run import ExperimentRun
    from pqbench.report.load import find_records
    from pqbench.tracking.push import push

    stop.install()
    stop.check()
    try:
        read = schema.read(config)
        schema.validate(read)
    except ConfigError as error:
        refuse(error)
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    try:
        shown = shown_config(config, schema.to_plain(read))
        status = ExperimentRun(read, folder, as_given(job.overrides.task), shown).run().status
        sweep = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
        for record, where in find_records(folder) if read.tracking.enabled else ():
            push(record, where, read.tracking, sweep)
    except OutputError as error:
        unwritable(str(error))
    except OSError as error:
        unwritable(f"cannot write to {folder}: {error.strerror or error}")
    return str(status)


def unwritable(why: str) -> NoReturn:
    """End the sweep: nothing that it finds out could be kept."""
    say(why)
    raise SystemExit(UNWRITABLE)


# Other processes unpickle `run` by importing this module, and compose the configuration next.
schema.register()
