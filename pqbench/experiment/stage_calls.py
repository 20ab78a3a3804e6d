"""One stage of an experiment as data, and running it: found or computed, with account kept."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pqbench.core import interrupt
from pqbench.core import record as rec
from pqbench.experiment.config import ExperimentConfig
from pqbench.workers.child import cell_timeout
from pqbench.workers.stage import StageResult, StageRunner
from pqbench.workers.stage_spec import StageSpec

log = logging.getLogger("pqbench")


@dataclass(frozen=True)
class StageCall:
    """One stage of an experiment, as data that knows its key.

    Attributes:
        function: Name of the function in ``pqbench.experiment.stages``.
        arguments: JSON-ready values that it takes.
        made: Folders of earlier stages that it takes; each enters the key by its own key.
        content: What the arguments stand for, where that differs from them (a file's content for
            its path); None: the arguments themselves.
        name: Name for logs and records; empty: the function's.
        resumable: Whether it can go on with what an interrupted run left.
    """

    function: str
    arguments: Mapping[str, Any]
    made: Mapping[str, StageResult | None] = field(default_factory=dict)
    content: Mapping[str, Any] | None = None
    name: str = ""
    resumable: bool = False

    def spec(self, timeout_s: float, threads: int, memory_mb: float | None) -> StageSpec:
        """What the stage's own process is asked."""
        folders = {k: str(v.folder) if v is not None else None for k, v in self.made.items()}
        keys = {k: v.key if v is not None else None for k, v in self.made.items()}
        content = self.arguments if self.content is None else self.content
        return StageSpec(
            name=self.name or self.function,
            function=f"pqbench.experiment.stages:{self.function}",
            arguments={**self.arguments, **folders},
            key={**content, **keys},
            made=tuple(k for k, v in folders.items() if v is not None),
            timeout_s=timeout_s,
            threads=threads,
            memory_mb=memory_mb,
            resumable=self.resumable,
        )


class StageAccount:
    """Runs stages and keeps account of them.

    Args:
        config: The validated configuration: time limit, threads and memory of every stage.
        runner: Finds or computes stages.

    Attributes:
        done: What ran, for the record.
        deadline: When the experiment must end, on the monotonic clock in s; None: no limit.
    """

    def __init__(self, config: ExperimentConfig, runner: StageRunner) -> None:
        self.config = config
        self.runner = runner
        self.done: list[rec.Stage] = []
        self.deadline: float | None = None

    def run(self, call: StageCall) -> StageResult:
        """What a stage made, found or computed.

        Raises:
            PqbenchError: The stage failed, or no time is left for it.
        """
        interrupt.check()
        config = self.config
        timeout = config.protocol.stage_timeout_s
        if self.deadline is not None:
            timeout = min(timeout, self.deadline - time.monotonic())
            if timeout <= 0:
                raise cell_timeout(f"before stage {call.name or call.function}")
        spec = call.spec(timeout, config.threads, config.limits.memory_mb)
        with _status(f"{config.title}: {spec.name}"):
            result = self.runner.run(spec)
        self.note(spec.name, result.seconds, result.rss_peak_mb, result.cached)
        return result

    def note(
        self, name: str, seconds: float, rss_peak_mb: float | None, cached: bool = False
    ) -> None:
        """Take account of a stage that is done, and say so."""
        log.info("    %-18s %s", name, "found" if cached else f"{seconds:.1f} s")
        self.done.append(rec.Stage(name, round(seconds, 3), cached, rss_peak_mb))


def _status(text: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere; never shown while something is timed."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
