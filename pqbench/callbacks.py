"""What happens around runs: the tracking store is made first, the summary printed last."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pqbench.errors import PqbenchError, Status

if TYPE_CHECKING:
    from pqbench.tracking.settings import TrackingSettings

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
        from pqbench.tracking.settings import TrackingSettings
        from pqbench.tracking.store import ensure_store

        settings = TrackingSettings.from_config(_tracking(config))
        ensure_store(settings)

    def _finish(self, config: DictConfig, folder: Path, sweep: bool) -> None:
        from rich.console import Console

        from pqbench.report.load import load_records
        from pqbench.report.summary import Pointers, print_summary
        from pqbench.report.write import write_report
        from pqbench.tracking.settings import TrackingSettings

        records = load_records(folder)
        accepted = NOT_FAILURES_IN_A_SWEEP if sweep else (Status.OK,)
        if not records or any(r.status not in accepted for r in records):
            OUTCOME.exit_code = FAILED
        settings = TrackingSettings.from_config(_tracking(config))
        files = write_report(records, folder, plots=False) if records else []
        found = Pointers(folder=folder, files=files, **_mlflow_pages(settings, folder, sweep))
        print_summary(records, Console(), found)


def _mlflow_pages(settings: TrackingSettings, folder: Path, sweep: bool) -> dict[str, Any]:
    """How to open MLflow on the runs below a folder; empty if none was tracked."""
    from pqbench.report.load import find_records
    from pqbench.tracking import journal
    from pqbench.tracking.links import base_url, compare_url, runs_url, ui_command

    entries = [journal.pushed(where) for _, where in find_records(folder)]
    last = [pushed[-1] for pushed in entries if pushed]
    runs = {e.record_sha256: e for e in last}.values()
    if not runs:
        return {}
    base, experiment = base_url(settings), last[0].experiment_id or ""
    return {
        "mlflow_command": ui_command(settings),
        "runs_url": runs_url(base, experiment, folder.name if sweep else None),
        "compare_url": compare_url(base, experiment, [e.run_id for e in runs if e.run_id]),
    }


def _tracking(config: DictConfig) -> dict[str, Any]:
    """The keys of the configuration that say where results are tracked."""
    plain = OmegaConf.to_container(config.tracking, resolve=True)
    return {"tracking": plain, "outputs": config.outputs}
