"""A stage's own process: started, watched, limited, and asked for what it returned or raised.

The parent passes a request file and reads a response file, so a stage that dies by exception,
signal or time-out is an error with a name in the parent, never its end. The child dies with its
parent, however that dies.

A stage shares the device with other work of pqbench and keeps off whoever times: the parent waits
for that before the stage's own time begins, and the child may still time something by itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core import interrupt
from pqbench.core.errors import ERRORS, OutOfMemoryFailure, PqbenchError, StageTimeout, WorkerCrash
from pqbench.core.files import write_json
from pqbench.machine import device_lock
from pqbench.workers.child import (
    child_environment,
    describe_error,
    die_with_parent,
    limit_memory,
    log_tail,
    speaks_of_memory,
)
from pqbench.workers.forkserver import Forked, Handed, server
from pqbench.workers.guard import WORKERS, kill_tree
from pqbench.workers.stage_spec import StageSpec

if TYPE_CHECKING:  # there is none on Windows
    from multiprocessing.context import ForkServerContext

_MEMORY_HINT = (
    "use fewer images, a smaller batch or a machine with more memory, or raise limits.memory_mb"
)


@contextlib.contextmanager
def _process(
    request: Path, response: Path, log: Path, spec: StageSpec, shares: Mapping[str, int]
) -> Iterator[Forked | subprocess.Popen[bytes]]:
    """A child in its own process group, killed with all its children when the block is left."""
    # A limit counts what the process itself allocates, so it must not begin with the server's.
    context = server(spec.threads) if spec.memory_mb is None else None
    WORKERS.prepare()
    process = _start(context, request, response, log, spec.threads, shares)
    WORKERS.began(process.pid)
    limit_memory(process.pid, spec.memory_mb)
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
    context: ForkServerContext | None,
    request: Path,
    response: Path,
    log: Path,
    threads: int,
    shares: Mapping[str, int],
) -> Forked | subprocess.Popen[bytes]:
    """A fork of the server that has imported torch; a fresh interpreter without one."""
    if context is not None:
        return Forked(context, _forked_child, (request, response, Handed(shares)), log, threads)
    command = [sys.executable, "-m", "pqbench.workers.stage_process", str(request), str(response)]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, str(os.getpid()), json.dumps(dict(shares))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(threads),
            start_new_session=True,
            pass_fds=tuple(shares.values()),
        )


def run_process(spec: StageSpec, workdir: Path, log: Path) -> tuple[dict[str, Any], float, float]:
    """Run a stage in a process of its own.

    Args:
        spec: The stage.
        workdir: Its folder.
        log: File for what it prints.

    Returns:
        What the function returned, its wall time in s, its peak resident memory in MiB.

    Raises:
        PqbenchError: What the stage raised; or it ran out of time or memory, or crashed.
    """
    request, response = workdir / ".request.json", workdir / ".response.json"
    write_json(
        request,
        {"function": spec.function, "workdir": str(workdir), "arguments": dict(spec.arguments)},
    )
    with device_lock.working() as shares:  # who times on a GPU holds the CPU as well
        began = time.perf_counter()
        with _process(request, response, log, spec, shares) as process:
            try:
                process.wait(spec.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise StageTimeout(
                    f"stage {spec.name} ran longer than {spec.timeout_s:.3g} s",
                    hint="raise protocol.stage_timeout_s or limits.cell_s, or use a smaller model "
                    "or fewer images",
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


def _forked_child(request: Path, response: Path, shares: Mapping[str, int]) -> None:
    """In a fork of the server, which ends it with our parent."""
    _child(request, response, None, shares)


def _child(request: Path, response: Path, parent: int | None, shares: Mapping[str, int]) -> None:
    """In the child: call the function and write what it returned or raised."""
    import resource

    if parent is not None:
        die_with_parent(parent)
    device_lock.join(shares)
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
    _child(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
