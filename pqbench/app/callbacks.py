"""What happens around runs: the tracking store is made first, the summary printed last."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pqbench.app.check import check, check_reference
from pqbench.app.composition import copied, drop_hydra
from pqbench.app.outcome import FAILED, OUTCOME, ends_clearly, refuse
from pqbench.app.run_folder import RunFolder, is_given, new_folder
from pqbench.app.shown import as_given, scrub_folder
from pqbench.app.sweep_state import (
    BusyError,
    Progress,
    Sweep,
    command_of,
    find_earlier,
    note_end,
    note_start,
    unwritable_folder,
)
from pqbench.core.errors import DataError, Status
from pqbench.core.terminal import UNWRITABLE, quieten_libraries

if TYPE_CHECKING:
    from pqbench.core.record import Record
    from pqbench.tracking.settings import TrackingSettings

log = logging.getLogger("pqbench")
NOT_FAILURES_IN_A_SWEEP = (Status.OK, Status.UNSUPPORTED, Status.UNAVAILABLE, Status.SKIPPED)


def check_combinations(config: DictConfig) -> int | None:
    """Refuse a sweep over lists if one of its combinations is invalid.

    Other sweepers choose combinations as they go; theirs are checked when they start.

    Returns:
        How many will be measured; None if that is not known beforehand.

    Raises:
        ConfigError: One of them is invalid.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.pqbench_search import RaceSweeper, RecipeSweeper
    from pqbench.app.composition import sweep_loader
    from pqbench.app.recipe_settings import fit_to_recipes

    loader = sweep_loader()
    over_lists = (BasicSweeper.__name__, RecipeSweeper.__name__, RaceSweeper.__name__)
    sweeps = config.hydra.sweeper._target_.rpartition(".")[2]
    if sweeps not in over_lists:
        trials: int | None = config.hydra.sweeper.get("n_trials")
        return trials
    total = 0
    sweeper = BasicSweeper(max_batch_size=None, params=config.hydra.sweeper.params)
    arguments = [*sweeper._parse_config(), *as_given(config.hydra.overrides.task)]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
    jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]

    def steps_of(overrides: list[str]) -> set[str]:
        return set(loader.load_sweep_config(config, overrides).compress)

    typed = as_given(config.hydra.overrides.task)
    options = loader.get_group_options("compress")
    backends = set()
    for overrides in fit_to_recipes(jobs, steps_of, typed, options):
        total += 1
        backends.add(check(drop_hydra(loader.compose(config, overrides))).backend_name)
    check_reference(config.claim.reference, backends)
    return None if sweeps == RaceSweeper.__name__ else total


def enter_sweep(config: DictConfig, total: int | None) -> Sweep:
    """Go back to the unfinished sweep of this command, or start one.

    Raises:
        ConfigError: Another process runs a sweep in the folder that was asked for.
        OutputError: The folder cannot be written.
    """
    given = config.hydra.overrides
    overrides = [*as_given(given.task), *as_given(given.hydra)]
    command = command_of(overrides)
    folder = Path(config.hydra.sweep.dir)
    if is_given(config, "hydra.sweep.dir"):
        return Sweep(folder, command, total)
    again = str(config.get("retry", "none")).endswith("failed")
    earlier = None if config.force else find_earlier(folder.parent, command, finished_too=again)
    sweep = None
    if earlier is not None:
        with contextlib.suppress(BusyError):  # another process took it meanwhile
            sweep = Sweep(earlier, command, total)
            print(f"going on with {earlier}")
    if sweep is None:
        try:
            free = new_folder(folder)
        except OSError as error:
            raise unwritable_folder(folder, error) from error
        sweep = Sweep(free, command, total)
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = str(sweep.folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{sweep.folder}'")
    return sweep


class Results(Callback):
    """Prepares the tracking store before a run or sweep and prints the summary after it."""

    _sweep: Sweep | None = None
    _run: RunFolder | None = None
    _progress: Progress | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Launchers send callbacks to their workers; folders and their locks stay here."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_sweep", "_run", "_progress")}

    @ends_clearly("the run cannot start")
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder and the store before the experiment starts."""
        del kwargs
        check(drop_hydra(copied(config)), alone=True)
        folder = Path(config.hydra.run.dir)
        try:
            self._run = RunFolder(folder, is_given(config, "hydra.run.dir"))
        except OSError as error:
            refuse(unwritable_folder(folder, error), UNWRITABLE)
        with read_write(config), open_dict(config):
            config.hydra.run.dir = str(self._run.folder)
        self._prepare(config)

    @ends_clearly("the sweep cannot start")
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every combination; make the store once, in the parent, before any worker starts."""
        del kwargs
        total = check_combinations(config)
        self._sweep = enter_sweep(config, total)
        self._prepare(config)

    @ends_clearly("an experiment cannot start")
    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note that an experiment of a sweep has started; in the process that runs it."""
        del kwargs
        quieten_libraries()
        folder = _sweep_folder(config)
        scrub_folder(Path(config.hydra.runtime.output_dir))
        if folder is not None:
            scrub_folder(folder)
            note_start(folder, Path(config.hydra.runtime.output_dir).name)

    @ends_clearly("the sweep's progress cannot be written")
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Say how far the sweep has got; in the process that ran the experiment."""
        del kwargs, job_return
        from pqbench.core.record import FILE, Record

        folder, where = _sweep_folder(config), Path(config.hydra.runtime.output_dir)
        if folder is None or not (where / FILE).is_file():
            return
        try:
            note_end(folder, where.name, Record.load(where))
        except DataError as error:
            log.warning("  %s", error)
            return
        if self._progress is None or self._progress.folder != folder:
            self._progress = Progress(folder)
        log.info("  [%s]", self._progress.view())

    @ends_clearly("the summary cannot be made")
    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of one experiment and its baseline."""
        del kwargs
        self._finish(config, Path(config.hydra.runtime.output_dir), sweep=False)
        if self._run is not None:
            self._run.let_go()

    @ends_clearly("the summary cannot be made")
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of the whole sweep, rebuilt from its records on disk."""
        del kwargs
        self._finish(config, Path(config.hydra.sweep.dir), sweep=True)
        if self._sweep is not None:
            self._sweep.finish()

    def _prepare(self, config: DictConfig) -> None:
        from pqbench.cache import Cache
        from pqbench.tracking.store import ensure_store
        from pqbench.workers.forkserver import server

        if str(config.hydra.launcher.get("_target_", "")).endswith(
            (".BasicLauncher", ".LocalLauncher")
        ):
            server(int(config.threads))  # it imports torch while MLflow is imported here
        Cache(Path(config.outputs).absolute() / "cache").clean()
        quieten_libraries()
        ensure_store(_tracking(config))

    def _finish(self, config: DictConfig, folder: Path, sweep: bool) -> None:
        from rich.console import Console

        from pqbench.app.answering import answer
        from pqbench.core.record import FILE
        from pqbench.report.environments import record_key
        from pqbench.report.load import find_records, newest
        from pqbench.report.summary import Pointers, print_summary
        from pqbench.report.trail import read_trail
        from pqbench.report.write import answer_markdown, write_report

        read = find_records(folder)  # once: of thousands each takes its time
        records = newest([record for record, _ in read])
        accepted = NOT_FAILURES_IN_A_SWEEP if sweep else (Status.OK,)
        if not records or any(r.status not in accepted for r in records):
            OUTCOME.exit_code = FAILED
        if not sweep and not any(r.ok for r in records):
            print(f"  record: {folder / FILE}")  # the reason was said; a table would hide it
            return
        settings = _tracking(config)
        places = {record_key(record): where for record, where in read}
        answered = answer(config, read, folder, sweep)
        files = (
            write_report(
                records,
                folder / "report",
                plots=sweep,
                folders=places,
                answered=answered,
                trail=read_trail(folder) if sweep else None,
            )
            if records
            else []
        )
        note = answer_markdown(answered)
        pages = _mlflow_pages(settings, folder, records, read, sweep, files, note)
        found = Pointers(folder=folder, files=files, **pages)
        print_summary(records, Console(), found, answered)


def _mlflow_pages(
    settings: TrackingSettings,
    folder: Path,
    records: list[Record],
    read: Sequence[tuple[Record, Path]],
    sweep: bool,
    files: Sequence[Path] = (),
    note: str = "",
) -> dict[str, Any]:
    """How to open MLflow on the runs below a folder, and what it lacks."""
    from pqbench.tracking import journal
    from pqbench.tracking.links import base_url, compare_url, run_url, runs_url, ui_command
    from pqbench.tracking.push import save_view
    from pqbench.tracking.report_run import push_report

    if not settings.enabled:
        return {}
    found = [(record.ok, journal.pushed(where)) for record, where in read]
    entries = [pushed for _, pushed in found]
    last = [pushed[-1] for pushed in entries if pushed]
    missing = len(entries) - len(last)
    problem = (
        f"{missing} of {len(entries)} records are not in MLflow; push them later: "
        f"{settings.sync_command(folder)}"
    )
    pages: dict[str, Any] = {"problem": problem if missing else ""}
    if not last:
        return pages
    name = folder.name if sweep else None
    base, experiment = base_url(settings), last[0].experiment_id or ""
    # the page starts with the first metric that all runs have: of failed ones only their time
    good = [pushed[-1] for ok, pushed in found if ok and pushed]
    runs = {e.record_sha256: e.run_id for e in good or last if e.run_id}
    view = save_view(settings, experiment, records, name)
    report = push_report(settings, experiment, name, files, note) if name else None
    return {
        **pages,
        "report_url": run_url(base, experiment, report) if report else None,
        "mlflow_command": ui_command(settings),
        "runs_url": runs_url(base, experiment, name, view),
        "compare_url": compare_url(base, experiment, list(runs.values())),
    }


def _sweep_folder(config: DictConfig) -> Path | None:
    """The folder of the sweep that a job belongs to; None for a single run."""
    if config.hydra.mode != RunMode.MULTIRUN:
        return None
    return Path(config.hydra.sweep.dir)


def _tracking(config: DictConfig) -> TrackingSettings:
    """The part of the configuration that says where results are tracked."""
    settings: Any = OmegaConf.to_object(config.tracking)
    made: TrackingSettings = settings
    return made
