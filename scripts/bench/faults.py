"""The fault matrix: a small real sweep, hurt in every way we know, then the same command again.

Each row injects one fault into a sweep of two experiments (a user's tiny network, with and without
a step, on ONNX Runtime), lets it end, takes the fault away, gives the same command once more and
counts: finished results that are lost, results that were measured twice or are twice in MLflow,
runs that MLflow still calls RUNNING, and what is left behind (processes, locks, half-made entries).
All but the last column must be 0.

    python scripts/bench/faults.py [--only PATTERN] [--jobs 2] [--out DIR]

Disk full and read-only need the right to mount a tmpfs; without it their rows say so.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import tiny_sweep as tiny  # noqa: E402

SWEEP = ["compress=none,round", "backend=ort", "-m"]
EXPECTED = 2
LIMIT_S = 240
FORK_SERVER = "multiprocessing.forkserver"
STAGES = ("prepare_val", "prepare_model", "to_onnx", "prepare_train", "round", "count_work")
SITE = """
import os, sys, time
args = " ".join(sys.orig_argv)
if os.environ.get("FAULT") == "worker" and "pqbench.worker" in args:
    os._exit(7)
if os.environ.get("FAULT") == "clock":
    real, began = time.time, time.time()
    time.time = lambda: real() - (86400 if real() - began > 1 else 0)
"""


@dataclass
class Bench:
    """The folder in which every row runs, restored before each."""

    folder: Path
    outputs: Path
    template: Path

    def restore(self, without: tuple[str, ...] = ()) -> None:
        """Stages of a finished sweep, but those named; no records, an empty MLflow store."""
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

    def runs(self) -> list[tuple[str, str, str]]:
        """Status, fingerprint and sweep of every run in MLflow."""
        with contextlib.closing(sqlite3.connect(self.outputs / "mlflow.db")) as database:
            rows = database.execute(
                "select r.status, f.value, s.value from runs r"
                " join tags f on f.run_uuid = r.run_uuid and f.key = 'fingerprint'"
                " join tags s on s.run_uuid = r.run_uuid and s.key = 'sweep'"
            )
            return [(str(a), str(b), str(c)) for a, b, c in rows]


@dataclass
class Fault:
    """One row.

    Attributes:
        name: What is injected.
        hurt: Runs the sweep with the fault; returns exit code and output.
        without: Stages that are computed in this row.
        codes: Exit codes that are a clear end.
        again: Further arguments of the second command.
        sync: Whether a sync to the local store follows, as after an outage.
    """

    name: str
    hurt: Callable[[Bench], tuple[int, str]]
    without: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0, 3)
    again: tuple[str, ...] = ("retry=failed",)
    sync: bool = False


def children(pid: int, module: str) -> list[psutil.Process]:
    """Processes of a sweep: its sessions (a module's name), or its stages, forked or not."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(child.cmdline())
                if module in line:
                    found.append(child)
                elif module == "pqbench.stage" and FORK_SERVER in line:
                    found += child.children()
    return found


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


def plain(*arguments: str, **extra: str) -> Callable[[Bench], tuple[int, str]]:
    return lambda b: ended(tiny.start(b.folder, *SWEEP, *arguments, **extra))


def at_log(
    log: str, module: str, number: int, whom: str, *arguments: str
) -> Callable[[Bench], tuple[int, str]]:
    """Signal the child (or the parent) while the stage with this log runs."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = tiny.start(bench.folder, *SWEEP, *arguments)

        def there() -> bool:
            return bool(bench.logs(log)) and bool(children(process.pid, module))

        if not wait_for(process, there):
            return 998, f"never saw {log}: " + ended(process)[1]
        time.sleep(0.3)
        if whom == "parent":
            process.send_signal(number)
        else:
            for child in children(process.pid, module):
                child.send_signal(number)
        return ended(process)

    return hurt


def at_file(pattern: str, number: int, times: int = 1) -> Callable[[Bench], tuple[int, str]]:
    """Signal the parent once a file is there."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = tiny.start(bench.folder, *SWEEP)
        if not wait_for(process, lambda: any(bench.outputs.glob(pattern))):
            return 998, f"never saw {pattern}: " + ended(process)[1]
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.5)
        return ended(process)

    return hurt


def after(damage: Callable[[Bench], None], *arguments: str) -> Callable[[Bench], tuple[int, str]]:
    """Damage what a good sweep left, then run."""

    def hurt(bench: Bench) -> tuple[int, str]:
        code, output = plain()(bench)
        if code:
            return 997, output
        damage(bench)
        return plain(*arguments)(bench)

    return hurt


def flip(bench: Bench) -> None:
    for path in bench.outputs.glob("cache/stages/*/*.onnx"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    shutil.rmtree(bench.outputs / "cache" / "records")


def cut(pattern: str) -> Callable[[Bench], None]:
    def damage(bench: Bench) -> None:
        for path in bench.outputs.glob(pattern):
            path.write_bytes(path.read_bytes()[:200])
        for state in bench.outputs.glob("sweeps/*/sweep.json"):  # as if it had died there
            state.write_text(state.read_text().replace('"finished": true', '"finished": false'))

    return damage


def leftovers(bench: Bench) -> None:
    for name in ("stages", "records"):
        (bench.outputs / "cache" / name / "0123.99.tmp").mkdir(parents=True)
    (bench.outputs / "cache" / "locks").mkdir(exist_ok=True)
    (bench.outputs / "cache" / "locks" / "0123.lock").write_text("")


def lose_cache(bench: Bench) -> None:
    """Only MLflow knows: records and sweeps are gone."""
    shutil.rmtree(bench.outputs / "cache" / "records")
    shutil.rmtree(bench.outputs / "sweeps")


def two_in_one_folder(bench: Bench) -> tuple[int, str]:
    where = "hydra.sweep.dir=outputs/sweeps/one"
    first = tiny.start(bench.folder, *SWEEP, where)
    wait_for(first, lambda: (bench.outputs / "sweeps" / "one" / "sweep.json").exists())
    code, output = ended(tiny.start(bench.folder, *SWEEP, where))
    first_code, first_output = ended(first)
    return (code if first_code == 0 else first_code), first_output + output


def two_at_once(bench: Bench) -> tuple[int, str]:
    both = [tiny.start(bench.folder, *SWEEP, f"hydra.sweep.dir=outputs/sweeps/{n}") for n in "ab"]
    ends = [ended(p) for p in both]
    return max(code for code, _ in ends), "\n".join(output for _, output in ends)


@contextlib.contextmanager
def server(mode: str) -> Iterator[str]:
    """A tracking server that is down, hangs, answers 500, or dies after saying it is well."""
    if mode == "down":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if mode == "hangs":
                time.sleep(30)
            elif mode == "500":
                self.send_error(500)
            elif self.path == "/health":
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif mode == "dies half way":
                self.connection.close()
            else:
                time.sleep(30)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    stub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.daemon_threads = True
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{stub.server_port}"
    finally:
        stub.shutdown()
        stub.server_close()


def with_server(mode: str) -> Callable[[Bench], tuple[int, str]]:
    def hurt(bench: Bench) -> tuple[int, str]:
        with server(mode) as uri:
            return plain("tracking=server", f"tracking.uri={uri}")(bench)

    return hurt


def sqlite_locked(bench: Bench) -> tuple[int, str]:
    with contextlib.closing(sqlite3.connect(bench.outputs / "mlflow.db")) as database:
        database.execute("begin exclusive")
        return plain()(bench)


def small_disk(spare_kib: int, readonly: bool) -> Callable[[Bench], tuple[int, str]]:
    def hurt(bench: Bench) -> tuple[int, str]:
        used = sum(p.stat().st_blocks for p in bench.outputs.rglob("*")) // 2
        kept = bench.folder / "kept"
        bench.outputs.rename(kept)
        bench.outputs.mkdir()
        size = f"size={used * 2 + 4096}k"
        mounted = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(bench.outputs)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            bench.outputs.rmdir()
            kept.rename(bench.outputs)
            return 996, "no right to mount a tmpfs"
        try:
            shutil.copytree(kept, bench.outputs, dirs_exist_ok=True)
            if readonly:
                again = ["mount", "-o", "remount,ro", str(bench.outputs)]
                subprocess.run(again, check=True)
            else:
                free = shutil.disk_usage(bench.outputs).free - spare_kib * 1024
                (bench.outputs / "filler").write_bytes(b"\0" * max(0, free))
            result = plain()(bench)
            if readonly:
                subprocess.run(["mount", "-o", "remount,rw", str(bench.outputs)], check=True)
            shutil.rmtree(kept)
            shutil.copytree(bench.outputs, kept)
        finally:
            subprocess.run(["umount", str(bench.outputs)], check=True)
            bench.outputs.rmdir()
            kept.rename(bench.outputs)
        (bench.outputs / "filler").unlink(missing_ok=True)
        return result

    return hurt


def faults() -> list[Fault]:
    kill, segv, abort = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT
    stage, worker = "pqbench.stage", "pqbench.worker"
    rows = [
        Fault(f"SIGKILL of the parent in {s}", at_log(s, stage, kill, "parent"), (s,), (-kill,))
        for s in STAGES
    ]
    rows += [
        Fault("SIGKILL of a stage (to_onnx)", at_log("to_onnx", stage, kill, "it"), ("to_onnx",)),
        Fault("SIGSEGV of a stage (round)", at_log("round", stage, segv, "it"), ("round",)),
        Fault(
            "SIGABRT of a stage (prepare_model)",
            at_log("prepare_model", stage, abort, "it"),
            ("prepare_model",),
        ),
        Fault("SIGKILL of the fork server", at_log("round", FORK_SERVER, kill, "it"), ("round",)),
        Fault(
            "SIGKILL of the parent in measuring",
            at_log("candidate", worker, kill, "parent"),
            (),
            (-kill,),
        ),
        Fault("SIGKILL of a session while measuring", at_log("candidate", worker, kill, "it")),
        Fault("SIGSEGV of both sessions while measuring", at_log("baseline", worker, segv, "it")),
        Fault(
            "a stage hangs (SIGSTOP)",
            at_log("count_work", stage, signal.SIGSTOP, "it", "protocol.stage_timeout_s=12"),
            ("count_work",),
            again=("protocol.stage_timeout_s=12", "retry=failed"),
        ),
        Fault(
            "a session hangs (SIGSTOP)",
            at_log("candidate", worker, signal.SIGSTOP, "it", "protocol.stage_timeout_s=12"),
            again=("protocol.stage_timeout_s=12", "retry=failed"),
        ),
        Fault("out of memory in a stage", plain("limits.memory_mb=250"), ("prepare_model",)),
        Fault("out of memory in a session", plain("limits.memory_mb=30")),
        Fault("an experiment over its time", plain("limits.cell_s=4"), ("to_onnx",)),
        Fault("a session cannot start", plain(FAULT="worker")),
        Fault("the clock jumps back a day", plain(FAULT="clock"), ("count_work",)),
        Fault(
            "SIGKILL of the parent in the push",
            at_file("sweeps/*/*/tracking.json", kill),
            (),
            (-kill,),
        ),
        Fault("SIGKILL between two experiments", at_file("sweeps/*/1_*", kill), (), (-kill,)),
        Fault("Ctrl-C once", at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT), (), (130,)),
        Fault(
            "Ctrl-C twice", at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT, 2), (), (130,)
        ),
        Fault("disk full: 60 KiB left", small_disk(60, False), ("round",), (0, 1, 3, 4)),
        Fault("disk full: 700 KiB left", small_disk(700, False), ("round",), (0, 1, 3, 4)),
        Fault("read-only output", small_disk(0, True), (), (4,)),
        Fault("corrupted cache entry", after(flip), again=()),
        Fault("truncated record in the cache", after(cut("cache/records/*/record.json")), again=()),
        Fault("truncated record in the sweep", after(cut("sweeps/*/*/record.json")), again=()),
        Fault("truncated stage result", after(cut("cache/stages/*/result.json")), again=()),
        Fault("half-made entries and a stale lock", after(leftovers), again=()),
        Fault("records and cache of records lost", after(lose_cache), again=()),
        Fault("two sweeps in one folder", two_in_one_folder, (), (2,), again=()),
        Fault("two sweeps at once, one cache", two_at_once, ("round", "to_onnx"), again=()),
        Fault("sqlite locked", sqlite_locked, again=(), sync=True),
    ]
    rows += [
        Fault(f"tracking server {mode}", with_server(mode), again=(), sync=True)
        for mode in ("down", "hangs", "500", "dies half way", "is well and then hangs")
    ]
    return rows


@dataclass
class Row:
    """What one fault did."""

    name: str
    code: int
    seconds: float
    lost: int = 0
    twice: int = 0
    running: int = 0
    left: int = 0
    words: str = ""
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Whether nothing was lost, made twice or left behind, and every end was clear."""
        return not (self.lost or self.twice or self.running or self.left or self.words)


def left_behind(bench: Bench) -> int:
    me = psutil.Process().pid
    alive = 0
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or ())
        ours = str(bench.folder) in words or process.info["cwd"] == str(bench.folder)
        named = "pqbench" in words or FORK_SERVER in words
        alive += ours and named and process.info["pid"] != me and "faults" not in words
    halves = list(bench.outputs.glob("cache/*/*.tmp"))
    locks = list(bench.outputs.glob("sweeps/*/.sweep.lock"))
    return alive + len(halves) + len(locks)


def run_row(bench: Bench, fault: Fault) -> Row:
    bench.restore(fault.without)
    began = time.monotonic()
    code, output = fault.hurt(bench)
    row = Row(fault.name, code, time.monotonic() - began)
    if code == 996:
        row.words = output
        return row
    for path in bench.outputs.glob("sweeps/**/record.json"):
        with contextlib.suppress(ValueError, KeyError):
            row.statuses[json.loads(path.read_text())["status"]] += 1
    before = bench.records()
    if code not in fault.codes or "Traceback" in output:
        row.words = f"ended with {code}: {output[-1500:]}"
    code, output = ended(tiny.start(bench.folder, *SWEEP, *fault.again))
    if code:
        row.words += f" again: {code}: {output[-1500:]}"
    if fault.sync:
        for _ in range(2):
            sync = [sys.executable, "-m", "pqbench.sync", "outputs/sweeps", "--uri"]
            uri = f"sqlite:///{bench.outputs / 'mlflow.db'}"
            done = subprocess.run(
                [*sync, uri],
                cwd=bench.folder,
                env=tiny.environment(),
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                row.words += f" sync: {done.stdout}{done.stderr}"
    found = bench.records()
    row.lost = EXPECTED - len(found) + len(set(before) - set(found))
    row.twice = sum(len(times) - 1 for times in found.values())
    row.twice += sum(set(before[f]) != set(found[f]) for f in before if f in found)
    runs = bench.runs()
    row.twice += sum(n - 1 for n in Counter((f, s) for t, f, s in runs if t == "FINISHED").values())
    row.lost += EXPECTED - len({f for t, f, _ in runs if t == "FINISHED"})
    row.running = sum(t == "RUNNING" for t, _, _ in runs)
    row.left = left_behind(bench)
    return row


def prepare(folder: Path) -> Bench:
    """A folder with the stages of an undisturbed sweep and an empty MLflow store."""
    tiny.prepare(folder)
    bench = Bench(folder, folder / "outputs", folder / "template")
    code, output = ended(tiny.start(folder, *SWEEP))
    if code:
        raise SystemExit(f"the undisturbed sweep failed:\n{output}")
    for name in ("sweeps", "cache/records", "cache/locks", "mlartifacts"):
        shutil.rmtree(bench.outputs / name, ignore_errors=True)
    with contextlib.closing(sqlite3.connect(bench.outputs / "mlflow.db")) as database, database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"delete from {table}")
    shutil.copytree(bench.outputs, bench.template)
    return bench


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    how = ", ".join(f"{n} {s}" for s, n in sorted(row.statuses.items())) or "no record"
    cells = [row.name, how, row.code, f"{row.seconds:.0f}", row.lost, row.twice, row.running]
    cells += [row.left, "as it should" if row.good else f"WRONG: {row.words}"]
    return "| " + " | ".join(str(c).replace("\n", " ") for c in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only faults whose name matches this pattern")
    parser.add_argument("--jobs", type=int, default=2, help="rows at once, each in its own folder")
    parser.add_argument("--out", type=Path, help="also write faults.md and faults.json here")
    args = parser.parse_args()
    todo = [fault for fault in faults() if re.search(args.only, fault.name)]
    rows: dict[str, Row] = {}
    heads = ["fault", "records then", "exit", "s", "lost", "twice", "RUNNING", "left", "outcome"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)

    def work(folder: Path) -> None:
        bench = prepare(folder)
        while waiting:
            fault = waiting.popleft()
            rows[fault.name] = row = run_row(bench, fault)
            print(line(row), flush=True)

    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        (top / "site").mkdir()
        (top / "site" / "sitecustomize.py").write_text(SITE)
        os.environ["PYTHONPATH"] = str(top / "site")
        waiting = deque(todo)
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(work, [top / str(n) for n in range(args.jobs)]))
    good = sum(row.good for row in rows.values())
    print(f"\n{good} of {len(rows)} as they should")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        ordered = [rows[fault.name] for fault in todo]
        (args.out / "faults.json").write_text(json.dumps([r.__dict__ for r in ordered], indent=1))
        (args.out / "faults.md").write_text("\n".join(line(row) for row in ordered) + "\n")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
