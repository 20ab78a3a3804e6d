"""A small real sweep in a folder of its own: what it left, and which processes are its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import tiny_sweep as tiny  # noqa: E402

SWEEP = ["compress=none,round", "backend=ort", "-m"]
LIMIT_S = 600
PATIENCE_S = 3.0
OWN_FOLDERS = ("tmp", "home", "locks")
# What libraries keep for the next time, and say so.
_CACHES = {"matplotlib", "torchinductor_root", "__pycache__", ".cache", ".config", "fontlist"}
FORK_SERVER = "multiprocessing.forkserver"
SESSION = "session"  # told by its log: it is a fork, or the fresh interpreter that is weighed


@dataclass
class Bench:
    """The folder in which every row runs, restored before each."""

    folder: Path
    outputs: Path
    template: Path
    there: frozenset[str] = frozenset()

    def files(self) -> frozenset[str]:
        """Every path that lies beside the results: in the work, home, temporary, lock folders."""
        roots = [p for p in self.folder.iterdir() if p not in (self.outputs, self.template)]
        inner = [p for root in roots if root.is_dir() for p in root.rglob("*")]
        kept = {p for p in (*roots, *inner) if not _CACHES & set(p.relative_to(self.folder).parts)}
        return frozenset(os.fsencode(p).hex() for p in kept)

    def restore_folders(self) -> None:
        """Empty folders of its own for home, locks and temporary files."""
        for name in OWN_FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(mode=0o700)

    def restore(self, without: tuple[str, ...] = ()) -> None:
        """Stages of a finished sweep, but those named; no records, an empty MLflow store."""
        self.restore_folders()
        self.there = self.files()
        shutil.rmtree(self.outputs, ignore_errors=True)
        shutil.copytree(self.template, self.outputs)
        for path in (self.outputs / "cache" / "stages").glob("*/result.json"):
            if json.loads(path.read_text())["name"] in without:
                shutil.rmtree(path.parent)

    def logs(self, name: str) -> list[Path]:
        """Logs of a stage or session, wherever in the sweeps."""
        return list(self.outputs.glob(f"sweeps/*/**/logs/{name}.log"))

    def records(self) -> dict[str, dict[str, str]]:
        """By fingerprint: when it was measured, for every record that is ok."""
        found: dict[str, dict[str, str]] = {}
        for path in self.outputs.glob("sweeps/**/record.json"):
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(path.read_text())
                if record["status"] == "ok":
                    found.setdefault(record["fingerprint"], {})[record["created"]] = str(path)
        return found

    def endings(self) -> list[tuple[str, str, str]]:
        """Status, stage of its error and fingerprint of every readable record."""
        found = []
        for path in self.outputs.glob("sweeps/**/record.json"):
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(path.read_text())
                stage = (record["error"] or {}).get("stage", "")
                found.append((record["status"], stage, record["fingerprint"]))
        return found

    def runs(self) -> list[tuple[str, str, str]]:
        """Status, fingerprint and sweep of every run in MLflow."""
        with contextlib.closing(sqlite3.connect(self.outputs / "mlflow.db")) as database:
            rows = database.execute(
                "select r.status, f.value, s.value from runs r"
                " join tags f on f.run_uuid = r.run_uuid and f.key = 'fingerprint'"
                " join tags s on s.run_uuid = r.run_uuid and s.key = 'sweep'"
            )
            return [(str(a), str(b), str(c)) for a, b, c in rows]


def prepare(folder: Path) -> Bench:
    """A folder with the stages of an undisturbed sweep and an empty MLflow store."""
    tiny.prepare(folder)
    bench = Bench(folder, folder / "outputs", folder / "template")
    bench.restore_folders()
    code, output = ended(start(bench))
    if code:
        raise SystemExit(f"the undisturbed sweep failed:\n{output}")
    forget(bench, mlflow=True)
    shutil.copytree(bench.outputs, bench.template)
    return bench


def processes(bench: Bench, patience_s: float = PATIENCE_S) -> list[int]:
    """Every process that a command of this bench has started, whatever its name.

    They bear the bench in their environment. One that ends by itself is waited for a little.
    """
    end = time.monotonic() + patience_s
    mark = f"FAULTS_MARK={bench.folder}".encode()
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def left_behind(bench: Bench) -> int:
    """Processes, half-made entries, locks, and files beside the results that are new."""
    halves = list(bench.outputs.glob("cache/*/*.tmp"))
    locks = list(bench.outputs.glob("sweeps/*/.sweep.lock"))
    # the lock files of the device are there to stay, for the next command
    new = [os.fsdecode(bytes.fromhex(name)) for name in bench.files() - bench.there]
    mine = [name for name in new if "/locks/pqbench-" not in name or "/fork-" in name]
    if mine:
        print("left:", *mine[:5], file=sys.stderr)
    return len(processes(bench)) + len(halves) + len(locks) + len(mine)


def is_session(pid: int) -> bool:
    """Whether a process is one side of a cell: its output goes to the log of that side."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/fd/1").readlink().stem.endswith(("candidate", "baseline"))
    return False


def children(pid: int, module: str) -> list[psutil.Process]:
    """Processes of a sweep: its sessions, its fork server, or its stages, forked or not."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                below = child.children() if FORK_SERVER in line else [child]
                if module == SESSION:
                    found += [process for process in below if is_session(process.pid)]
                elif module == "pqbench.workers.stage" and FORK_SERVER in line:
                    found += [process for process in below if not is_session(process.pid)]
                elif module in line:
                    found.append(child)
    return found


def works(child: psutil.Process) -> bool:
    """Whether a child has got past its start: it has opened its log and used the processor."""
    with contextlib.suppress(psutil.Error):
        return sum(child.cpu_times()[:2]) > 0
    return True  # it has ended: there is nothing to wait for


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> bool:
    while process.poll() is None:
        if ready():
            return True
        time.sleep(0.005)
    return False


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 999, output
    return process.returncode, output


def own_folders(bench: Bench) -> dict[str, str]:
    """Environment that keeps a command in folders of its own, and marks its processes."""
    return {
        "FAULTS_MARK": str(bench.folder),
        "HOME": str(bench.folder / "home"),
        "TMPDIR": str(bench.folder / "tmp"),
        "XDG_RUNTIME_DIR": str(bench.folder / "locks"),
    }


def start(bench: Bench, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """The sweep, in folders of its own, marked."""
    return tiny.start(bench.folder, *SWEEP, *arguments, **{**own_folders(bench), **extra})


def forget(bench: Bench, *, mlflow: bool) -> None:
    """Remove the sweeps, and the records that the cache and MLflow have; the stages stay."""
    shutil.rmtree(bench.outputs / "sweeps", ignore_errors=True)
    if not mlflow:
        return
    for name in ("cache/records", "cache/locks", "mlartifacts"):
        shutil.rmtree(bench.outputs / name, ignore_errors=True)
    with contextlib.closing(sqlite3.connect(bench.outputs / "mlflow.db")) as database, database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"delete from {table}")
