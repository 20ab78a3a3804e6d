"""One experiment from start to end: found, or made, measured and recorded.

prepare -> (fit) -> steps and conversions, as planned -> deploy and measure -> record. The baseline
of a recipe is an experiment of its own, found or run first, so that every record can carry speedup,
size ratio and accuracy drop.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pqbench.cache import Cache
from pqbench.cache.content import assert_unchanged
from pqbench.cache.inputs import assert_intact, look
from pqbench.compress.recipe import Action, plan
from pqbench.core import interrupt as stop
from pqbench.core import record as rec
from pqbench.core.artifact import Representation
from pqbench.core.backend import Backend
from pqbench.core.dataset import DataIndex, Dataset
from pqbench.core.errors import (
    OutputError,
    PqbenchError,
    SkippedError,
    UnavailableError,
    UnsupportedError,
)
from pqbench.core.instantiate import make
from pqbench.core.secrets import mask, mask_text
from pqbench.core.step import Step
from pqbench.experiment.assemble import Baseline, measured_record
from pqbench.experiment.config import baseline_config, fingerprint
from pqbench.experiment.failure import failure_record, unexpected
from pqbench.experiment.pipeline import Deployable, Maker
from pqbench.experiment.reuse import FinishedRecords, identity, sources
from pqbench.tracking.fetch import fetch
from pqbench.tracking.settings import TrackingSettings
from pqbench.workers.stage import StageRunner

log = logging.getLogger("pqbench")


class ExperimentRun:
    """One experiment on its way: configuration, folders, and what has been done so far.

    Args:
        config: The resolved, validated configuration.
        folder: Where the record and the files beside it go.
        overrides: The arguments that composed it, for the command that reproduces it.
        shown: The configuration as records hold it, without secrets; None: only addresses are
            masked.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        folder: Path,
        overrides: Sequence[str] = (),
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = dict(config)
        self.folder = folder
        self.overrides = list(overrides)
        self.shown: dict[str, Any] = mask(config if shown is None else shown)
        self.command = mask_text(shlex.join(["python", "-m", "pqbench", *overrides]))
        self.fingerprint = fingerprint(config)
        self.threads: int = config["threads"]
        self.cache = open_cache(config)
        self.maker = Maker(config, StageRunner(self.cache, folder / "work", folder / "logs"))
        self.title = self.maker.title
        self.finished = FinishedRecords(self.cache, folder, self.fingerprint)
        self.sources: dict[str, str] = {}
        self.identity = ""
        self.began = time.perf_counter()
        self.deployable: Deployable | None = None

    def _experiment(self, weights: str | None) -> rec.Experiment:
        config = self.config
        return rec.Experiment(
            model=config["model"]["name"],
            task=config["model"]["task"],
            dataset=config["dataset"]["name"],
            split=config["dataset"]["split"],
            recipe=list(config["compress"]),
            backend=config["backend"]["name"],
            weights=weights,
        )

    def run(self) -> rec.Record:
        """Find or run the experiment; never raises for a failure of the experiment itself.

        Returns:
            The record, saved in ``folder``; its status says how it ended.

        Raises:
            OutputError: The record cannot be written.
            Stopped: The user has asked to stop.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self.sources = sources(self.config)
                record = self._failed_before()
                if record is not None:
                    return record
                record = self._run()
            except PqbenchError as error:
                record = self._failure(error)
            except Exception as error:  # the boundary of the experiment: reported, never hidden
                record = self._failure(unexpected(error, self.folder / "logs"))
            record.save(self.folder)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror or error}",
                hint="free space or set outputs= to a folder that can be written; the same command "
                "goes on from what is finished",
            ) from error
        finally:
            if self.cache is not None:
                self.cache.close()
        return record

    def _failure(self, error: PqbenchError) -> rec.Record:
        log.warning("  %s: %s: %s", self.title, error.status, error)
        record = failure_record(
            error,
            self.folder,
            experiment=self._experiment(None),
            fingerprint=self.fingerprint,
            seconds=round(time.perf_counter() - self.began, 3),
            command=self.command,
            config=self.shown,
            threads=self.threads,
            stages=self.maker.done,
        )
        record.identity = identity(self.sources, self.threads, None)
        return record

    def _run(self) -> rec.Record:
        config = self.config
        backend = make(config["backend"], "backend", Backend)
        steps = {k: make(v, f"compress.{k}", Step) for k, v in config["compress"].items()}
        try:
            start = config["model"]["representation"]
            actions = plan(steps, start, backend.loads, config["backend"]["name"])
        except UnsupportedError:
            if config["compress"]:
                self._baseline()  # what this backend can do is still worth a row
            raise
        available = backend.availability()
        if not available.available:
            raise UnavailableError(
                f"backend {config['backend']['name']}: {available.reason}", hint=available.hint
            )
        try:
            backend.check_loads(actions[-1].after if actions else start)
        except UnsupportedError:
            if config["compress"]:
                self._baseline()
            raise
        index = make(config["dataset"]["source"], "dataset.source", Dataset).index()
        listing = index.listing_hash()
        self.identity = identity(self.sources, self.threads, listing)
        found = self._find()
        if found is not None:
            return found
        with self.finished.making(self.identity):
            # Another process may have finished it while this one waited.
            return self._find() or self._make(index, listing, actions, backend.loads)

    def _make(
        self, index: DataIndex, listing: str, actions: list[Action], loads: Sequence[Representation]
    ) -> rec.Record:
        """Run what no record was found for: its baseline first, then all its stages."""
        config = self.config
        base, found = self._baseline() if config["compress"] else (None, None)
        if found is not None and not found.ok:
            why = found.error.message if found.error else ""
            raise SkippedError(f"its baseline failed ({found.status}): {why}")
        log.info("  %s", self.title)
        self.began = time.perf_counter()
        limit = config["limits"]["cell_s"]
        self.maker.deadline = None if limit is None else time.monotonic() + limit
        self.deployable = self.maker.deploy(index, listing, actions)
        baseline: Baseline | None = None
        if base is not None and found is not None:
            if base.deployable is None:  # its record was found: find its model as well
                conversions = plan({}, config["model"]["representation"], loads, "")
                base.deployable = base.maker.deploy(index, listing, conversions)
            baseline = Baseline(found, base.folder, base.deployable.artifact.folder)
        record = self._measure(self.deployable, baseline)
        assert_unchanged(self.sources, sources(config), "the experiment")
        assert_unchanged(
            {"data set": listing}, {"data set": index.listing_hash()}, "the experiment"
        )
        record.sources = self.sources
        self.finished.keep(record)  # before the record is in its folder: found if we die between
        return record

    def _baseline(self) -> tuple[ExperimentRun, rec.Record]:
        """Find or run the same experiment with the empty recipe."""
        rest = [
            o for o in self.overrides if not o.lstrip("+").startswith(("compress=", "compress."))
        ]
        base = ExperimentRun(
            baseline_config(self.config),
            self.folder / "baseline",
            [*rest, "compress=none"],
            baseline_config(self.shown),
        )
        return base, base.run()

    def _measure(self, deployable: Deployable, baseline: Baseline | None) -> rec.Record:
        from pqbench.experiment.measure_pair import SideSpec, run_cell
        from pqbench.measure.protocol import Protocol

        config, split = self.config, deployable.split.folder
        backend = config["backend"]
        stop.check()
        models = [deployable.artifact.folder, *([baseline.artifact] if baseline else [])]
        inputs = look(models)
        began = time.perf_counter()
        cell = run_cell(
            SideSpec(backend, deployable.artifact.folder, split, "candidate"),
            SideSpec(backend, baseline.artifact, split, "baseline") if baseline else None,
            Protocol(**config["protocol"]),
            self.folder,
            threads=self.threads,
            clean=deployable.clean.folder if deployable.clean else None,
            memory_mb=config["limits"]["memory_mb"],
            deadline=self.maker.deadline,
        )
        assert_intact(inputs, f"backend {backend['name']}", self.cache, added_too=False)
        self.maker.note("measure", time.perf_counter() - began, cell.memory.rss_peak_mb)
        work = self.maker.count_work(deployable)
        record = measured_record(
            config,
            self.folder,
            deployable,
            cell,
            baseline,
            work,
            experiment=self._experiment(deployable.weights),
            fingerprint=self.fingerprint,
            identity=self.identity,
            command=self.command,
            stages=self.maker.done,
            began=self.began,
        )
        record.config = self.shown
        return record

    # -- finding -------------------------------------------------------------------------------

    def _find(self) -> rec.Record | None:
        """The finished record: where it goes, in the cache, or in the tracking store."""
        if self.config["force"]:
            return None
        record, where = self.finished.here(), "found"
        if record is not None and not (record.ok and record.identity == self.identity):
            record = None
        if record is None:
            record = self.finished.kept(self.identity)
        if record is None and self.cache is not None:
            settings = TrackingSettings.from_config(self.config)
            record, where = (
                fetch(settings, self.fingerprint, self.identity, self.folder),
                "found in the tracking store",
            )
            if record is not None:
                self.finished.keep(record)
        if record is not None:
            log.info(
                "  %s: %s, measured %s (force=true measures again)",
                self.title,
                where,
                record.created,
            )
        return record

    def _failed_before(self) -> rec.Record | None:
        """The failure that a resumed sweep recorded in this folder, unless it is to be retried."""
        if self.config["force"] or self.config["retry"] == "failed" or self.cache is None:
            return None
        record = self.finished.here()
        if (
            record is None
            or record.ok
            or record.identity != identity(self.sources, self.threads, None)
        ):
            return None
        log.info("  %s: %s before (retry=failed runs it again)", self.title, record.status)
        return record


def open_cache(config: Mapping[str, Any]) -> Cache | None:
    """The cache that a configuration names; None if it is switched off."""
    if not config["cache"]:
        return None
    return Cache(Path(config["outputs"]).absolute() / "cache", config["limits"]["cache_gb"])
