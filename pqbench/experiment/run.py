"""One experiment from start to end: found, or built, measured and recorded.

plan -> find -> baseline -> build (prepare, fit, recipe, conversions) -> measure -> record. The
baseline of a recipe is an experiment of its own, found or run first, so that every record can carry
speedup, size ratio and accuracy drop.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.cache import Cache
from pqbench.cache.content import assert_unchanged
from pqbench.cache.inputs import assert_intact, look
from pqbench.compress.recipe import Action, plan
from pqbench.core import interrupt
from pqbench.core import record as rec
from pqbench.core.artifact import Representation
from pqbench.core.backend import Backend
from pqbench.core.dataset import DataIndex
from pqbench.core.errors import (
    OutputError,
    PqbenchError,
    SkippedError,
    UnavailableError,
    UnsupportedError,
)
from pqbench.core.instantiate import make
from pqbench.core.ownership import claim, note
from pqbench.core.secrets import mask, mask_text
from pqbench.core.step import Step
from pqbench.experiment.assemble import (
    BESIDE,
    CLEAN_PREDICTIONS,
    LOCK,
    PREDICTIONS,
    Baseline,
    Recorder,
)
from pqbench.experiment.cell_result import CellResult
from pqbench.experiment.config import ExperimentConfig, Retry, fingerprint, to_plain
from pqbench.experiment.listed import LISTINGS
from pqbench.experiment.measure_pair import (
    CLEAN_LOGITS_FILE,
    LATENCY_FILE,
    LOGITS_FILE,
    SideSpec,
    run_cell,
)
from pqbench.experiment.pipeline import Built, Pipeline
from pqbench.experiment.reuse import FinishedRecords, identity, shown_sources, sources
from pqbench.tracking.fetch import fetch
from pqbench.workers.stage import StageRunner

# What an experiment writes into its folder, and replaces when it is run there again.
RESULTS = (
    *(rec.FILE, "tracking.json", ".tracking.lock", "logs", "work", "baseline", "model", LOCK),
    *(LATENCY_FILE, LOGITS_FILE, CLEAN_LOGITS_FILE, PREDICTIONS, CLEAN_PREDICTIONS),
    *BESIDE.values(),
    ".fetched",
)
log = logging.getLogger("pqbench")


@dataclass(frozen=True)
class _Plan:
    """What an experiment is to do, known before any work.

    Attributes:
        actions: Steps and conversions in order.
        loads: Representations that the backend loads.
        index: The data set's classes and splits.
        listing: ``index.listing_hash()``.
    """

    actions: Sequence[Action]
    loads: Sequence[Representation]
    index: DataIndex
    listing: str


class ExperimentRun:
    """One experiment on its way: configuration, folders, and what has been done so far.

    Args:
        config: The validated configuration.
        folder: Where the record and the files beside it go.
        overrides: The arguments that composed it, for the command that reproduces it.
        shown: The configuration as records hold it, without secrets; None: only addresses are
            masked.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        folder: Path,
        overrides: Sequence[str] = (),
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.overrides = list(overrides)
        self.plain = to_plain(config)
        self.fingerprint = fingerprint(self.plain)
        self.cache = open_cache(config)
        self.pipeline = Pipeline(config, StageRunner(self.cache, folder / "work", folder / "logs"))
        self.finished = FinishedRecords(self.cache, folder, self.fingerprint)
        self.identity = ""
        self.in_place = False  # the record was found, and lies in the folder already
        self.sources: dict[str, str] = {}
        self.built: Built | None = None
        self.shown: dict[str, Any] = mask(self.plain if shown is None else shown)
        command = mask_text(shlex.join(["python", "-m", "pqbench", *overrides]))
        self.recorder = Recorder(config, self.shown, self.fingerprint, folder, command)

    def run(self) -> rec.Record:
        """Find or run the experiment; never raises for a failure of the experiment itself.

        Returns:
            The record, saved in ``folder``; its status says how it ended.

        Raises:
            ConfigError: A file of the user's is in the way.
            OutputError: The record cannot be written.
            Stopped: The user has asked to stop.
        """
        try:
            claim(self.folder, RESULTS, "set another hydra.run.dir, or move it away")
            try:
                self.sources = sources(self.plain)
                record = self._failed_before() or self._find_or_make()
            except PqbenchError as error:
                record = self._failed(error)
            except Exception as error:  # the boundary of the experiment: reported, never hidden
                record = self._failed(self.recorder.unexpected(error))
            if not self.in_place:
                record.save(self.folder)
            note(self.folder)
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

    # -- the order -----------------------------------------------------------------------------

    def _find_or_make(self, fresh: bool = False) -> rec.Record:
        planned = self._plan(fresh)
        self.identity = identity(self.sources, self.config.threads, planned.listing)
        found = self._find()
        if found is not None:
            return found
        with self.finished.making(self.identity):
            # Another process may have finished it while this one waited.
            found = self._find()
            if found is not None:
                return found
            changed = not fresh and self._list(fresh=True)[1] != planned.listing
            if not changed:
                return self._make(planned)
        return self._find_or_make(fresh=True)  # of the data as they are now

    def _make(self, planned: _Plan) -> rec.Record:
        """Run what no record was found for: its baseline first, then all its stages."""
        base, found = self._baseline() if self.config.has_baseline else (None, None)
        if found is not None and not found.ok:
            why = found.error.message if found.error else ""
            raise SkippedError(f"its baseline failed ({found.status}): {why}")
        log.info("  %s", self.config.title)
        self.recorder.begin()
        limit = self.config.limits.cell_s
        self.pipeline.account.deadline = None if limit is None else time.monotonic() + limit
        self.built = self.pipeline.build(planned.index, planned.listing, planned.actions)
        baseline: Baseline | None = None
        if base is not None and found is not None:
            baseline = Baseline(found, base.folder, base.model_folder(planned))
        cell = self._measure(self.built, baseline)
        size = self.pipeline.measure_size(self.built)
        record = self.recorder.finished(
            self.built, cell, baseline, size, self.identity, self.pipeline.account.done
        )
        assert_unchanged(self.sources, sources(self.plain), "the experiment")
        assert_unchanged(
            {"data set": planned.listing},
            {"data set": planned.index.listing_hash()},
            "the experiment",
        )
        record.sources = shown_sources(self.sources, self.shown)
        record.hash_files(self.folder)
        self.finished.keep(record)  # before the record is in its folder: found if we die between
        return record

    def _list(self, fresh: bool) -> tuple[DataIndex, str]:
        """The data set's index and its hash, which name what is made of it."""
        return LISTINGS.get(self.config.dataset.source, self.sources, fresh)

    def _plan(self, fresh: bool) -> _Plan:
        """Check that the recipe can be done and the backend is here; list the data."""
        config = self.config
        backend = make(config.backend, "backend", Backend)
        steps = {k: make(v, f"compress.{k}", Step) for k, v in config.compress.items()}
        start: Representation = config.model.representation.value
        try:
            actions = plan(steps, start, backend.loads, config.backend_name)
            available = backend.availability()
            if available.available:
                backend.check_loads(actions[-1].after if actions else start)
        except UnsupportedError:
            if config.compress:
                self._baseline()  # what this backend can do is still worth a row
            raise
        if not available.available:
            raise UnavailableError(
                f"backend {config.backend_name}: {available.reason}", hint=available.hint
            )
        index, listing = self._list(fresh)
        return _Plan(actions, backend.loads, index, listing)

    def _baseline(self) -> tuple[ExperimentRun, rec.Record]:
        """Find or run the same experiment with the empty recipe."""
        rest = [
            o for o in self.overrides if not o.lstrip("+").startswith(("compress=", "compress."))
        ]
        rest.append("compress=none")
        shown = {**self.shown, "compress": {}}
        other = self.config.model.baseline_file
        if other is not None:
            replaced = ("model.file=", "model.baseline_file=")
            rest = [o for o in rest if not o.lstrip("+").startswith(replaced)]
            rest.append(f"model.file={other}")
            shown["model"] = {**shown["model"], "file": other, "baseline_file": None}
        base = ExperimentRun(self.config.baseline(), self.folder / "baseline", rest, shown)
        return base, base.run()

    def model_folder(self, planned: _Plan) -> Path:
        """Folder of a baseline's model; where its record was found, its stages are found too."""
        if self.built is None:
            start: Representation = self.config.model.representation.value
            conversions = plan({}, start, planned.loads, "")
            self.built = self.pipeline.build(planned.index, planned.listing, conversions)
        return self.built.artifact.folder

    def _measure(self, built: Built, baseline: Baseline | None) -> CellResult:
        config, split = self.config, built.split.folder
        interrupt.check()
        models = [built.artifact.folder, *([baseline.artifact] if baseline else [])]
        inputs = look(models)
        began = time.perf_counter()
        cell = run_cell(
            SideSpec(config.backend, built.artifact.folder, split, "candidate"),
            SideSpec(config.backend, baseline.artifact, split, "baseline") if baseline else None,
            config.protocol,
            self.folder,
            threads=config.threads,
            clean=built.clean.folder if built.clean else None,
            memory_mb=config.limits.memory_mb,
            deadline=self.pipeline.account.deadline,
            key=self.fingerprint,
        )
        assert_intact(inputs, f"backend {config.backend_name}", self.cache, added_too=False)
        self.pipeline.account.note("measure", time.perf_counter() - began, cell.memory.rss_peak_mb)
        return cell

    def _failed(self, error: PqbenchError) -> rec.Record:
        log.warning("  %s: %s: %s", self.config.title, error.status, error)
        named = identity(self.sources, self.config.threads, None)
        self.in_place = False
        return self.recorder.failed(error, named, self.pipeline.account.done)

    # -- finding -------------------------------------------------------------------------------

    def _find(self) -> rec.Record | None:
        """The finished record: where it goes, in the cache, or in the tracking store."""
        if self.config.force:
            return None
        record, where = self.finished.here(), "found"
        if record is not None and not (record.ok and record.identity == self.identity):
            record = None
        if record is None:
            record = self.finished.kept(self.identity)
        if record is None and self.cache is not None:
            record, where = (
                fetch(self.config.tracking, self.fingerprint, self.identity, self.folder),
                "found in the tracking store",
            )
            if record is not None:
                self.finished.keep(record)
        if record is not None:
            self.in_place = True
            log.info(
                "  %s: %s, measured %s (force=true measures again)",
                self.config.title,
                where,
                record.created,
            )
        return record

    def _failed_before(self) -> rec.Record | None:
        """The failure that a resumed sweep recorded in this folder, unless it is to be retried."""
        if self.config.force or self.config.retry == Retry.failed or self.cache is None:
            return None
        record = self.finished.here()
        if (
            record is None
            or record.ok
            or record.identity != identity(self.sources, self.config.threads, None)
        ):
            return None
        self.in_place = True
        log.info("  %s: %s before (retry=failed runs it again)", self.config.title, record.status)
        return record


def open_cache(config: ExperimentConfig) -> Cache | None:
    """The cache that a configuration names; None if it is switched off."""
    if not config.cache:
        return None
    return Cache(Path(config.outputs).absolute() / "cache", config.limits.cache_gb)
