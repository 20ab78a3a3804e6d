"""Run one stage once: in its own process, under a time limit, its result cached by content.

A stage is a function ``f(workdir, **arguments) -> dict`` named by ``module:function``. Arguments
and result are JSON; anything bigger is a file in ``workdir``. The parent passes a request file and
reads a response file, so a stage that dies by exception, signal or time-out is an error with a name
in the parent, never its end.

Cache: the key is a hash of the function, its arguments (a folder made by another stage enters by
that stage's key), the content of every file that they name, pqbench's code, the user's own code
that the arguments name and the versions of the libraries. A file or module that changed while the
stage ran is an error, and so is a stage that changed what earlier stages made. The child dies with
its parent, however that dies.

A resumable stage is told of a folder in the cache that bears its key and outlives it: what it put
there before it was interrupted it finds when it is run again. The folder goes once the stage is
done, or has failed for a reason of its own, which would be the same again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.cache import Cache
from pqbench.cache.content import assert_unchanged, named_files
from pqbench.cache.inputs import assert_intact, look
from pqbench.cache.keys import code_hash, library_versions
from pqbench.cache.users_code import users_code
from pqbench.core import interrupt
from pqbench.core.errors import ERRORS, OutOfMemoryFailure, PqbenchError, StageTimeout, WorkerCrash
from pqbench.core.files import write_json
from pqbench.workers.child import (
    child_environment,
    describe_error,
    die_with_parent,
    limit_memory,
    log_tail,
    speaks_of_memory,
)
from pqbench.workers.forkserver import Forked, server
from pqbench.workers.guard import WORKERS, kill_tree

if TYPE_CHECKING:  # there is none on Windows
    from multiprocessing.context import ForkServerContext

INTERRUPTIONS = (StageTimeout, OutOfMemoryFailure, WorkerCrash)  # from without: worth going on
_MEMORY_HINT = (
    "use fewer images, a smaller batch or a machine with more memory, or raise limits.memory_mb"
)


@dataclass(frozen=True)
class StageSpec:
    """What to run.

    Attributes:
        name: Name for logs and records.
        function: ``package.module:function``.
        arguments: JSON-ready keyword arguments.
        key: What names the arguments' content where that differs from the arguments themselves
            (a path stands for the content found there); None takes the arguments.
        timeout_s: Time limit in s.
        threads: Threads the process may use.
        memory_mb: Limit of the process's own data in MiB; None: no limit. Linux only.
        resumable: The function takes ``resume``, the path of a folder for half-done work, which
            decides nothing about the result; it is left out where there is no cache.
        made: Names of the arguments that are folders made by earlier stages.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    key: Mapping[str, Any] | None = None
    timeout_s: float = 1800.0
    threads: int = 1
    memory_mb: float | None = None
    resumable: bool = False
    made: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """The arguments but those that earlier stages made, or an earlier attempt."""
        return {k: v for k, v in self.arguments.items() if k not in (*self.made, "resume")}

    def sources(self) -> dict[str, str]:
        """SHA-256 of every file and of every module of the user's that the arguments name."""
        code = {f"code:{name}": sha256 for name, sha256 in users_code(self.given()).items()}
        return {**named_files(self.given()), **code}


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


def cache_key(spec: StageSpec, sources: Mapping[str, str] | None = None) -> str:
    """The key under which the stage's result is found, 32 hex digits.

    Args:
        spec: The stage.
        sources: ``spec.sources()`` where it is known already.
    """
    value = {
        "function": spec.function,
        "arguments": spec.key if spec.key is not None else spec.arguments,
        "code": code_hash(),
        "sources": dict(spec.sources() if sources is None else sources),
        "libraries": library_versions(),
        "python": sys.version_info[:2],
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


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
            result = _run_process(spec, folder, log)
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


@contextlib.contextmanager
def _process(
    request: Path, response: Path, log: Path, threads: int, memory_mb: float | None
) -> Iterator[Forked | subprocess.Popen[bytes]]:
    """A child in its own process group, killed with all its children when the block is left."""
    # A limit counts what the process itself allocates, so it must not begin with the server's.
    context = server(threads) if memory_mb is None else None
    WORKERS.prepare()
    process = _start(context, request, response, log, threads)
    WORKERS.began(process.pid)
    limit_memory(process.pid, memory_mb)
    try:
        yield process
    finally:
        if process.returncode is None:
            kill_tree(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        WORKERS.ended(process.pid)


def _start(
    context: ForkServerContext | None, request: Path, response: Path, log: Path, threads: int
) -> Forked | subprocess.Popen[bytes]:
    """A fork of the server that has imported torch; a fresh interpreter without one."""
    if context is not None:
        return Forked(context, _forked_child, (request, response), log, threads)
    command = [sys.executable, "-m", "pqbench.workers.stage", str(request), str(response)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(threads),
            start_new_session=True,
        )


def _run_process(spec: StageSpec, workdir: Path, log: Path) -> tuple[dict[str, Any], float, float]:
    request, response = workdir / ".request.json", workdir / ".response.json"
    write_json(
        request,
        {"function": spec.function, "workdir": str(workdir), "arguments": dict(spec.arguments)},
    )
    began = time.perf_counter()
    with _process(request, response, log, spec.threads, spec.memory_mb) as process:
        try:
            process.wait(spec.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise StageTimeout(
                f"stage {spec.name} ran longer than {spec.timeout_s:.3g} s",
                hint="raise protocol.stage_timeout_s or limits.cell_s, or use a smaller model or "
                "fewer images",
            ) from error
    seconds = time.perf_counter() - began
    try:
        answer = json.loads(response.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise _death(spec, process.returncode or 0, log) from None
    request.unlink()
    response.unlink()
    if "error" in answer:
        kind = ERRORS.get(answer["error"]["type"])
        if kind is None:
            failure = PqbenchError(
                f"{answer['error']['type']}: {answer['error']['message']}",
                hint=f"the traceback is in {log}",
            )
            failure.original = answer["error"]["type"]
            raise failure
        raise kind(answer["error"]["message"], hint=answer["error"]["hint"])
    return answer["value"], seconds, answer["rss_peak_mb"]


def _death(spec: StageSpec, code: int, log: Path) -> PqbenchError:
    """Why a stage's process ended without an answer."""
    name, last = spec.name, log_tail(log, 3)
    interrupt.came(-code)
    if code == -signal.SIGKILL:
        return OutOfMemoryFailure(
            f"stage {name} was killed (SIGKILL), as the system does when memory runs out",
            hint=_MEMORY_HINT,
        )
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    if speaks_of_memory(last):
        return OutOfMemoryFailure(f"stage {name} {how}: out of memory", hint=_MEMORY_HINT)
    hint = f"its log: {log}"
    if spec.memory_mb is not None:
        hint += f"; limits.memory_mb={spec.memory_mb:g} was in force: libraries may crash there"
    return WorkerCrash(f"stage {name} {how} and gave no result", hint=hint)


def _forked_child(request: Path, response: Path) -> None:
    """In a fork of the server, which ends it with our parent."""
    _child(request, response, None)


def _child(request: Path, response: Path, parent: int | None) -> None:
    """In the child: call the function and write what it returned or raised."""
    import resource

    if parent is not None:
        die_with_parent(parent)
    call = json.loads(request.read_text(encoding="utf-8"))
    module, _, name = call["function"].partition(":")
    answer: dict[str, Any]
    try:
        value = getattr(importlib.import_module(module), name)(
            Path(call["workdir"]), **call["arguments"]
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"value": value, "rss_peak_mb": round(peak, 1)}
    except Exception as error:  # the boundary of the process: reported, never hidden
        traceback.print_exc()
        answer = {"error": describe_error(error)}
    write_json(response, answer)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
