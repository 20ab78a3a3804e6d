"""``python -m pqbench``: the Hydra app."""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pqbench import schema
from pqbench.arguments import config_folder, prepare
from pqbench.callbacks import OUTCOME, refuse
from pqbench.errors import ConfigError

INTERRUPTED = 130


def run(config: DictConfig) -> None:
    """One job: validate, run the experiment, log its records."""
    from pqbench.experiment import ExperimentRun
    from pqbench.report.load import find_records
    from pqbench.tracking.settings import TrackingSettings
    from pqbench.tracking.store import push

    plain = schema.to_plain(config)
    try:
        schema.validate(plain)
    except ConfigError as error:
        refuse(error)
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    ExperimentRun(plain, folder, list(job.overrides.task)).run()
    sweep = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    settings = TrackingSettings.from_config(plain)
    for record, where in find_records(folder):
        push(record, where, settings, sweep)


def main() -> None:
    """Entry point of ``python -m pqbench`` and of the ``pqbench`` command."""
    schema.register()
    sys.argv[1:] = prepare(sys.argv[1:])
    app = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    try:
        app(run)()
    except KeyboardInterrupt:
        print(
            "\npqbench: stopped. What is finished is kept; the same command goes on from there.",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED)
    sys.exit(OUTCOME.exit_code)


if __name__ == "__main__":
    main()
