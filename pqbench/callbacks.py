"""What happens around runs: the tracking store is made first, the summary printed last."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pqbench.errors import PqbenchError, Status

FAILED = 3
REFUSED = 2
NOT_FAILURES_IN_A_SWEEP = (Status.OK, Status.UNSUPPORTED, Status.UNAVAILABLE, Status.SKIPPED)


@dataclass
class Outcome:
    """How the program ends; set by the callback, read by the entry point of the same process."""

    exit_code: int = 0


OUTCOME = Outcome()


def refuse(error: PqbenchError) -> NoReturn:
    """Print what cannot be meant and end the program with code 2.

    ``SystemExit`` and not the error itself: Hydra would wrap the latter into a traceback.
    """
    print(f"pqbench: {error}", file=sys.stderr)
    raise SystemExit(REFUSED)


class Results(Callback):
    """Prepares the tracking store before a run or sweep and prints the summary after it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the store before any experiment starts."""
        del kwargs
        self._prepare(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the store once, in the parent, before any worker starts."""
        del kwargs
        self._prepare(config)

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of one experiment and its baseline."""
        del kwargs
        self._finish(config, Path(config.hydra.runtime.output_dir), sweep=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the whole sweep, rebuilt from its records on disk."""
        del kwargs
        self._finish(config, Path(config.hydra.sweep.dir), sweep=True)

    def _prepare(self, config: DictConfig) -> None:
        from pqbench.tracking.store import TrackingSettings, ensure_store

        settings = TrackingSettings.from_config(_tracking(config))
        ensure_store(settings)

    def _finish(self, config: DictConfig, folder: Path, sweep: bool) -> None:
        from rich.console import Console

        from pqbench.report.load import load_records
        from pqbench.report.summary import print_summary
        from pqbench.tracking.links import links
        from pqbench.tracking.store import TrackingSettings

        records = load_records(folder)
        settings = TrackingSettings.from_config(_tracking(config))
        print_summary(records, Console(), folder=folder, links=links(settings, folder))
        accepted = NOT_FAILURES_IN_A_SWEEP if sweep else (Status.OK,)
        if not records or any(r.status not in accepted for r in records):
            OUTCOME.exit_code = FAILED


def _tracking(config: DictConfig) -> dict[str, Any]:
    """The keys of the configuration that say where results are tracked."""
    plain = OmegaConf.to_container(config.tracking, resolve=True)
    return {"tracking": plain, "outputs": config.outputs}
