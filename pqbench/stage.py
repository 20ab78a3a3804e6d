"""Run one stage once: in its own process, under a time limit, its result cached by content.

A stage is a function ``f(workdir, **arguments) -> dict`` named by ``module:function``. Arguments
and result are JSON; anything bigger is a file in ``workdir``. The parent passes a request file and
reads a response file, so a stage that dies by exception, signal or time-out is an error with a name
in the parent, never its end.

Cache: the key is a hash of the function, its arguments (a folder made by another stage enters by
that stage's key), the code of the rooms it uses and the versions of the libraries. A result is
computed aside, under a lock, and renamed into place.
"""

from __future__ import annotations

import contextlib
import functools
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pqbench.artifact import write_json
from pqbench.environment import child_environment, versions
from pqbench.errors import (
    ERRORS,
    OutOfMemoryFailure,
    PqbenchError,
    StageTimeout,
    WorkerCrash,
)

RESULT = "result.json"
LOG_TAIL_LINES = 15
PACKAGE = Path(__file__).parent
GROUND = (
    "artifact.py",
    "checkpoint.py",
    "download.py",
    "errors.py",
    "inputs.py",
    "networks.py",
    "stages.py",
    "tensors.py",
)
LIBRARIES = (
    "torch",
    "torchvision",
    "torch-pruning",
    "lightning",
    "nncf",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "numpy",
    "pillow",
    "scipy",
)


@dataclass(frozen=True)
class StageSpec:
    """What to run.

    Attributes:
        name: Name for logs and records.
        function: ``package.module:function``.
        arguments: JSON-ready keyword arguments.
        rooms: Packages of pqbench whose code decides the result; enters the cache key.
        key: What names the arguments' content where that differs from the arguments themselves
            (a path stands for the content found there); None takes the arguments.
        timeout_s: Time limit in s.
        threads: Threads the process may use.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    rooms: Sequence[str]
    key: Mapping[str, Any] | None = None
    timeout_s: float = 1800.0
    threads: int = 1


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


@functools.cache
def code_hash(rooms: tuple[str, ...]) -> str:
    """Hash of the source of the ground modules and of the named rooms and modules."""
    digest = hashlib.sha256()
    files = [PACKAGE / name for name in GROUND]
    for room in rooms:
        path = PACKAGE / room
        files += [path] if path.suffix else sorted(path.rglob("*.py"))
    for file in files:
        digest.update(file.relative_to(PACKAGE).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries whose code decides a result, where installed."""
    return {name: version for name, version in versions().items() if name in LIBRARIES}


def cache_key(spec: StageSpec) -> str:
    """The key under which the stage's result is found, 32 hex digits."""
    value = {
        "function": spec.function,
        "arguments": spec.key if spec.key is not None else spec.arguments,
        "code": code_hash(tuple(spec.rooms)),
        "libraries": library_versions(),
        "python": sys.version_info[:2],
    }
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


class StageRunner:
    """Runs stages for one experiment.

    Args:
        cache: Folder of the content-addressed cache, or None to compute everything afresh.
        scratch: Folder for work that is not cached.
        logs: Folder for one log file per stage.
    """

    def __init__(self, cache: Path | None, scratch: Path, logs: Path) -> None:
        self.cache = cache
        self.scratch = scratch
        self.logs = logs

    def run(self, spec: StageSpec) -> StageResult:
        """Find or compute a stage's result.

        Raises:
            PqbenchError: What the stage raised; or it ran out of time or memory, or crashed. The
                attributes ``stage`` and ``log`` name the stage and its log file.
        """
        key = cache_key(spec)
        if self.cache is None:
            return self._compute(spec, key, self.scratch / f"{spec.name}-{key[:8]}")
        final = self.cache / "stages" / key
        found = self._find(final, key)
        if found is not None:
            return found
        from filelock import FileLock

        locks = self.cache / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{key}.lock"):
            found = self._find(final, key)
            return found if found is not None else self._compute(spec, key, final)

    def _find(self, folder: Path, key: str) -> StageResult | None:
        try:
            stored = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        if any(not (folder / name).is_file() for name in stored["files"]):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder / RESULT)
        return StageResult(
            folder, stored["value"], key, stored["seconds"], True, stored["rss_peak_mb"]
        )

    def _compute(self, spec: StageSpec, key: str, final: Path) -> StageResult:
        aside = final.with_name(f"{final.name}.{os.getpid()}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{spec.name}.log"
        try:
            value, seconds, rss = _run_process(spec, aside, log)
        except PqbenchError as error:
            shutil.rmtree(aside, ignore_errors=True)
            error.stage, error.log = spec.name, log  # type: ignore[attr-defined]
            raise
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        files = sorted(p.relative_to(aside).as_posix() for p in aside.rglob("*") if p.is_file())
        write_json(
            aside / RESULT,
            {"value": value, "seconds": seconds, "rss_peak_mb": rss, "files": files},
        )
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        return StageResult(final, value, key, seconds, False, rss)


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log file, or an empty text."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def _process(command: list[str], log: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own process group, killed with all its children when the block is left."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=child_environment(threads),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run_process(spec: StageSpec, workdir: Path, log: Path) -> tuple[dict[str, Any], float, float]:
    request, response = workdir / ".request.json", workdir / ".response.json"
    write_json(
        request,
        {"function": spec.function, "workdir": str(workdir), "arguments": dict(spec.arguments)},
    )
    began = time.perf_counter()
    command = [sys.executable, "-m", "pqbench.stage", str(request), str(response)]
    with _process(command, log, spec.threads) as process:
        try:
            process.wait(spec.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise StageTimeout(
                f"stage {spec.name} ran longer than {spec.timeout_s:g} s",
                hint="raise protocol.stage_timeout_s, or use a smaller model or fewer images",
            ) from error
    seconds = time.perf_counter() - began
    if process.returncode < 0:
        number = -process.returncode
        name = signal.Signals(number).name
        if number == signal.SIGKILL:
            raise OutOfMemoryFailure(
                f"stage {spec.name} was killed ({name})",
                hint="the system kills what needs more memory than there is: use fewer images, "
                "a smaller batch or a machine with more memory",
            )
        raise WorkerCrash(f"stage {spec.name} crashed ({name})", hint=f"its log: {log}")
    try:
        answer = json.loads(response.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise WorkerCrash(
            f"stage {spec.name} ended with code {process.returncode} and no result",
            hint=f"its log: {log}",
        ) from error
    request.unlink()
    response.unlink()
    if "error" in answer:
        kind = ERRORS.get(answer["error"]["type"])
        if kind is None:
            failure = PqbenchError(
                f"{answer['error']['type']}: {answer['error']['message']}",
                hint=f"the traceback is in {log}",
            )
            failure.original = answer["error"]["type"]  # type: ignore[attr-defined]
            raise failure
        raise kind(answer["error"]["message"], hint=answer["error"]["hint"])
    return answer["value"], seconds, answer["rss_peak_mb"]


def _child(request: Path, response: Path) -> None:
    """In the child: call the function and write what it returned or raised."""
    import resource

    call = json.loads(request.read_text(encoding="utf-8"))
    module, _, name = call["function"].partition(":")
    answer: dict[str, Any]
    try:
        value = getattr(importlib.import_module(module), name)(
            Path(call["workdir"]), **call["arguments"]
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"value": value, "rss_peak_mb": round(peak, 1)}
    except PqbenchError as error:
        traceback.print_exc()
        answer = {
            "error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        }
    except MemoryError:
        traceback.print_exc()
        answer = {
            "error": {
                "type": "OutOfMemoryFailure",
                "message": "out of memory",
                "hint": "use fewer images or a smaller batch",
            }
        }
    except Exception as error:  # the boundary of the process: reported, never hidden
        traceback.print_exc()
        first = str(error).strip().splitlines()
        answer = {
            "error": {
                "type": type(error).__name__,
                "message": first[0][:500] if first else "",
                "hint": "",
            }
        }
    write_json(response, answer)


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
