"""A small real sweep in a folder of its own, and the ways to hurt it; see ``faults.py``."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
SECRET = "s3cr3t-of-the-bench"
FORK_SERVER = "multiprocessing.forkserver"
SESSION = "session"  # told by its log: it is a fork, or the fresh interpreter that is weighed
NO_RIGHT = 996
# What a child's interpreter does first, for faults that need its help.
SITE = """
import os, sys, time
args = " ".join(sys.orig_argv)
if os.environ.get("FAULT") == "worker" and "-m pqbench.workers.weigh" in args:
    os._exit(7)
if os.environ.get("FAULT") == "clock":
    real, began = time.time, time.time()
    time.time = lambda: real() - (86400 if real() - began > 1 else 0)
if os.environ.get("FAULT") == "report":
    import errno, pathlib
    written = pathlib.Path.write_text
    def full(path, *arguments, **options):
        if "table.csv" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return written(path, *arguments, **options)
    pathlib.Path.write_text = full
"""


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


def _works(child: psutil.Process) -> bool:
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


def plain(*arguments: str, **extra: str) -> Callable[[Bench], tuple[int, str]]:
    return lambda b: ended(start(b, *arguments, **extra))


def at_log(
    log: str, module: str, number: int, whom: str, *arguments: str
) -> Callable[[Bench], tuple[int, str]]:
    """Signal the child (or the parent) while the stage with this log runs."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = start(bench, *arguments)

        def there() -> bool:
            return bool(bench.logs(log)) and bool(children(process.pid, module))

        if not wait_for(process, there):
            return 998, f"never saw {log}: " + ended(process)[1]
        seen = children(process.pid, module)
        wait_for(process, lambda: any(_works(child) for child in seen))
        if whom == "parent":
            process.send_signal(number)
        else:
            for child in children(process.pid, module):
                child.send_signal(number)
        return ended(process)

    return hurt


def at_file(
    pattern: str, number: int, times: int = 1, **extra: str
) -> Callable[[Bench], tuple[int, str]]:
    """Signal the parent once a file is there."""

    def hurt(bench: Bench) -> tuple[int, str]:
        process = start(bench, **extra)
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


def flip(bench: Bench) -> None:
    """Flip one bit of every model in the cache, which is then read: no record is left."""
    for path in bench.outputs.glob("cache/stages/*/*.onnx"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    forget(bench, mlflow=True)


def shorten(bench: Bench, pattern: str) -> None:
    """Keep the first 200 bytes of some files."""
    for path in bench.outputs.glob(pattern):
        path.write_bytes(path.read_bytes()[:200])


def cut_record_in_cache(bench: Bench) -> None:
    """MLflow still has it; the sweep does not."""
    shorten(bench, "cache/records/*/record.json")
    forget(bench, mlflow=False)


def cut_record_in_sweep(bench: Bench) -> None:
    """As if it had died while it wrote."""
    shorten(bench, "sweeps/*/*/record.json")
    for state in bench.outputs.glob("sweeps/*/sweep.json"):
        state.write_text(state.read_text().replace('"finished": true', '"finished": false'))


def cut_stage(bench: Bench) -> None:
    """The stages are read: no record is left."""
    shorten(bench, "cache/stages/*/result.json")
    forget(bench, mlflow=True)


def leftovers(bench: Bench) -> None:
    for name in ("stages", "records"):
        (bench.outputs / "cache" / name / "0123456789abcdef.99.tmp").mkdir(parents=True)
    (bench.outputs / "cache" / "locks").mkdir(exist_ok=True)
    (bench.outputs / "cache" / "locks" / "0123456789abcdef.lock").write_text("")


def lose_cache(bench: Bench) -> None:
    """Only MLflow knows: records and sweeps are gone."""
    shutil.rmtree(bench.outputs / "cache" / "records")
    shutil.rmtree(bench.outputs / "sweeps")


def two_in_one_folder(bench: Bench) -> tuple[int, str]:
    where = "hydra.sweep.dir=outputs/sweeps/one"
    first = start(bench, where)
    wait_for(first, lambda: (bench.outputs / "sweeps" / "one" / "sweep.json").exists())
    code, output = ended(start(bench, where))
    first_code, first_output = ended(first)
    return (code if first_code == 0 else first_code), first_output + output


def two_at_once(bench: Bench) -> tuple[int, str]:
    both = [start(bench, f"hydra.sweep.dir=outputs/sweeps/{n}") for n in "ab"]
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
            return NO_RIGHT, "no right to mount a tmpfs"
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


def one_bad_byte(name: str) -> Callable[[Bench], None]:
    """A byte that is no UTF-8 in every file of this name of the sweep, which is not finished."""

    def damage(bench: Bench) -> None:
        for path in bench.outputs.glob(f"sweeps/*/*/{name}"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] = 0xFF
            path.write_bytes(data)
        for state in bench.outputs.glob("sweeps/*/sweep.json"):
            state.write_text(state.read_text().replace('"finished": true', '"finished": false'))

    return damage


def secret(bench: Bench) -> tuple[int, str]:
    """A password in the store's address, and a value from the environment, are written nowhere."""
    code, output = plain(
        "tracking=server",
        f"tracking.uri='http://me:{SECRET}@127.0.0.1:9/?token={SECRET}'",
        "protocol.name=${oc.env:NAME}",
        NAME=SECRET,
    )(bench)
    for path in bench.folder.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            return 995, f"{path} holds the secret"
    return (995, output) if SECRET in output else (code, output)


def silent(bench: Bench) -> tuple[int, str]:
    """No device id in the home folder, with none of the switches set from outside."""
    code, output = plain(ORT_DISABLE_TELEMETRY="", CI="")(bench)
    home = list((bench.folder / "home").rglob("*"))
    found = [p for p in home if "device" in p.name or "_cid" in p.name]
    return (995, f"left {found}") if found else (code, output)


def long_temporary_folder(bench: Bench) -> tuple[int, str]:
    """A path of more than 80 characters, and no other place given."""
    long = bench.folder / "tmp" / ("t" * 90)
    long.mkdir()
    result = plain(TMPDIR=str(long), XDG_RUNTIME_DIR="")(bench)
    shutil.rmtree(long)
    return result


def lock_folder_is_a_link(bench: Bench) -> tuple[int, str]:
    """Somebody else has put a link where the locks go."""
    link = bench.folder / "locks" / f"pqbench-{os.getuid()}"
    target = bench.folder / "home"
    link.symlink_to(target)
    result = plain()(bench)
    link.unlink()
    return (995, "the link was followed") if list(target.glob("cpu.*")) else result


def a_sweep_that_cannot_be_locked(bench: Bench) -> tuple[int, str]:
    """An unfinished sweep of the same command that is another user's."""
    code, output = at_file("sweeps/*/1_*", signal.SIGKILL)(bench)
    if code != -signal.SIGKILL:
        return 998, output
    for path in bench.outputs.glob("sweeps/*/sweep.json"):
        lock = path.parent / ".sweep.lock"
        lock.unlink(missing_ok=True)
        lock.mkdir()
    result = plain()(bench)
    for lock in bench.outputs.glob("sweeps/*/.sweep.lock"):
        if lock.is_dir():
            lock.rmdir()
            shutil.rmtree(lock.parent)  # so that the bench counts the new sweep alone
    return result


def chatter(bench: Bench) -> tuple[int, str]:
    """A step that prints 60 MB: its log is cut."""
    code, output = plain(FAULT="chatter")(bench)
    big = [p for p in bench.logs("round") if p.stat().st_size > 12 * 2**20]
    return (995, f"{big} are not cut") if big else (code, output)
