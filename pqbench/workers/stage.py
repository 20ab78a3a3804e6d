"""Run one stage once: in its own process, under a time limit, its result cached by content.

A stage is a function ``f(workdir, **arguments) -> dict`` named by ``module:function``. Arguments
and result are JSON; anything bigger is a file in ``workdir``.

Cache: the key is a hash of the function, its arguments (a folder made by another stage enters by
that stage's key), the content of every file that they name, pqbench's code, the user's own code
that the arguments name and the versions of the libraries. A file or module that changed while the
stage ran is an error, and so is a stage that changed what earlier stages made.

A resumable stage is told of a folder in the cache that bears its key and outlives it: what it put
there before it was interrupted it finds when it is run again. The folder goes once the stage is
done, or has failed for a reason of its own, which would be the same again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pqbench.cache import Cache
from pqbench.cache.content import assert_unchanged
from pqbench.cache.inputs import assert_intact, look
from pqbench.core.errors import OutOfMemoryFailure, PqbenchError, StageTimeout, WorkerCrash
from pqbench.workers.stage_process import run_process
from pqbench.workers.stage_spec import StageSpec, cache_key

INTERRUPTIONS = (StageTimeout, OutOfMemoryFailure, WorkerCrash)  # from without: worth going on


@dataclass(frozen=True)
class StageResult:
    """What came out.

    Attributes:
        folder: The stage's work folder: its files.
        value: What the function returned.
        key: The cache key, or a key of this run only if caching is off.
        seconds: Wall time, the start of the process included; of the original run if cached.
        cached: True if the result was found.
        rss_peak_mb: Peak resident memory of the process in MiB.
    """

    folder: Path
    value: dict[str, Any]
    key: str
    seconds: float
    cached: bool
    rss_peak_mb: float | None


class StageRunner:
    """Runs stages for one experiment.

    Args:
        cache: The content-addressed cache, or None to compute everything afresh.
        scratch: Folder for work that is not cached.
        logs: Folder for one log file per stage.
    """

    def __init__(self, cache: Cache | None, scratch: Path, logs: Path) -> None:
        self.cache = cache
        self.scratch = scratch
        self.logs = logs

    def run(self, spec: StageSpec) -> StageResult:
        """Find or compute a stage's result.

        Raises:
            PqbenchError: What the stage raised; or it ran out of time or memory, or crashed. The
                attributes ``stage`` and ``log`` name the stage and its log file.
            OSError: The cache or the work folder cannot be written.
        """
        sources = spec.sources()
        key = cache_key(spec, sources)
        if self.cache is None:
            folder = self.scratch / f"{spec.name}-{key[:8]}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            value, seconds, rss = self._compute(spec, folder, sources)
            return StageResult(folder, value, key, seconds, False, rss)
        final = self.cache.stages / key
        found = self._find(self.cache, final, key)
        if found is not None:
            return found
        with self.cache.lock(key):
            found = self._find(self.cache, final, key)
            if found is not None:
                return found
            aside = self.cache.aside(final)
            resuming = _resuming(spec, self.cache.unfinished / key)
            value, seconds, rss = self._compute(resuming, aside, sources)
            payload = {"name": spec.name, "value": value, "seconds": seconds, "rss_peak_mb": rss}
            try:
                self.cache.keep(aside, final, payload)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            shutil.rmtree(self.cache.unfinished / key, ignore_errors=True)
            return StageResult(final, value, key, seconds, False, rss)

    def _find(self, cache: Cache, folder: Path, key: str) -> StageResult | None:
        stored = cache.find(folder)
        if stored is None:
            return None
        return StageResult(
            folder, stored["value"], key, stored["seconds"], True, stored["rss_peak_mb"]
        )

    def _compute(
        self, spec: StageSpec, folder: Path, sources: Mapping[str, str]
    ) -> tuple[dict[str, Any], float, float]:
        """Run the stage's process in ``folder``, which is removed if it fails.

        Neither what it was made from nor what it was given may be another thing afterwards.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{spec.name}.log"
        try:
            inputs = look(Path(spec.arguments[name]) for name in spec.made)
            result = run_process(spec, folder, log)
            assert_intact(inputs, f"stage {spec.name}", self.cache)
            assert_unchanged(sources, spec.sources(), f"stage {spec.name}")
            return result
        except PqbenchError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if spec.arguments.get("resume") and not isinstance(error, INTERRUPTIONS):
                shutil.rmtree(spec.arguments["resume"], ignore_errors=True)
            error.stage, error.log = spec.name, log
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _resuming(spec: StageSpec, folder: Path) -> StageSpec:
    """The stage with its folder for half-done work among the arguments, if it wants one."""
    if not spec.resumable:
        return spec
    return replace(spec, arguments={**spec.arguments, "resume": str(folder)})
