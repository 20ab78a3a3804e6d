"""The fault matrix: a small real sweep, hurt in every way we know, then the same command again.

Each row injects one fault into a sweep of two experiments (a user's tiny network, with and without
a step, on ONNX Runtime), lets it end, takes the fault away, gives the same command once more and
counts: finished results that are lost, results that were measured twice or are twice in MLflow,
runs that MLflow still calls RUNNING, and what is left behind (processes, locks, half-made entries).
All of these must be 0. Each row also states how the hurt sweep must end: its exit code, the status
and the stage of the record that the fault hits (every other one is ok, or skipped after it), and
the words that say why.

    python scripts/bench/faults/faults.py [--only PATTERN] [--jobs 2] [--out DIR]

Disk full and read-only need the right to mount a tmpfs; without it their rows say so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import fault_injection as fi
from fault_injection import FORK_SERVER, Bench, after, at_file, at_log, ended, plain, start, tiny

EXPECTED = 2
STAGES = ("prepare_val", "prepare_model", "to_onnx", "prepare_train", "round", "count_work")


@dataclass
class Fault:
    """One row.

    Attributes:
        name: What is injected.
        hurt: Runs the sweep with the fault; returns exit code and output.
        without: Stages that are computed in this row.
        codes: Exit codes that are right.
        status: Status of the record that is hit; empty: every record is ok.
        stage: Stage that this record names.
        says: Pattern of what the command must say.
        again: Further arguments of the second command.
        sync: Whether a sync to the local store follows, as after an outage.
        experiments: Different ones of both commands together.
    """

    name: str
    hurt: Callable[[Bench], tuple[int, str]]
    without: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    status: str = ""
    stage: str = ""
    says: str = ""
    again: tuple[str, ...] = ()
    sync: bool = False
    experiments: int = EXPECTED

    def wrong(self, code: int, output: str, bench: Bench) -> list[str]:
        """How the hurt sweep's end differs from what is stated here."""
        problems = []
        if code not in self.codes or "Traceback" in output:
            problems.append(f"ended with {code}: {output[-1500:]}")
        if not re.search(self.says, output):
            problems.append(f"does not say {self.says}: {output[-1500:]}")
        hit = [ending for ending in bench.endings() if ending[0] not in ("ok", "skipped")]
        expected = {(self.status, self.stage)} if self.status else set()
        if {(status, stage) for status, stage, _ in hit} != expected:
            problems.append(f"records {[ending[:2] for ending in hit]}, not {expected}")
        failed = {f for status, f, _ in bench.runs() if status == "FAILED"}
        if not {f for _, _, f in hit} <= failed:
            problems.append("MLflow does not call its run FAILED")
        return problems


def _of_processes() -> list[Fault]:
    """Processes that die, stop answering or run out of something."""
    kill, segv, abort, halt = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP
    stage, worker = "pqbench.workers.stage", fi.SESSION
    retry, limit = ("retry=failed",), "protocol.stage_timeout_s=12"
    long = ("protocol.min_pairs=20", "protocol.block_s=0.1")  # a session is there to be hit
    rows = [
        Fault(f"SIGKILL of the parent in {s}", at_log(s, stage, kill, "parent"), (s,), (-kill,))
        for s in STAGES
    ]
    # Where the first experiment is hit in what the second needs as well, that one makes it: exit 0.
    rows += [
        Fault(
            "SIGKILL of a stage (to_onnx)",
            at_log("to_onnx", stage, kill, "it"),
            ("to_onnx",),
            status="oom",
            stage="to_onnx",
            says=r"killed \(SIGKILL\)",
            again=retry,
        ),
        Fault(
            "SIGSEGV of a stage (round)",
            at_log("round", stage, segv, "it"),
            ("round",),
            (3,),
            "crashed",
            "round",
            "SIGSEGV",
            retry,
        ),
        Fault(
            "SIGABRT of a stage (prepare_model)",
            at_log("prepare_model", stage, abort, "it"),
            ("prepare_model",),
            status="crashed",
            stage="prepare_model",
            says="SIGABRT",
            again=retry,
        ),
        Fault(
            "SIGKILL of the fork server",
            at_log("round", FORK_SERVER, kill, "it"),
            ("round",),
            (3,),
            "crashed",
            "round",
            again=retry,
        ),
        Fault(
            "SIGKILL of the parent in measuring",
            at_log("candidate", worker, kill, "parent"),
            codes=(-kill,),
        ),
        Fault(
            "SIGKILL of a session while measuring",
            at_log("candidate", worker, kill, "it", *long),
            status="oom",
            stage="measure",
            says=r"killed \(SIGKILL\)",
            again=(*long, *retry),
        ),
        Fault(
            "SIGSEGV of both sessions while measuring",
            at_log("baseline", worker, segv, "it", *long),
            (),
            (3,),
            "crashed",
            "measure",
            "SIGSEGV",
            (*long, *retry),
        ),
        Fault(
            "a stage hangs (SIGSTOP)",
            at_log("count_work", stage, halt, "it", limit),
            ("count_work",),
            status="timeout",
            stage="count_work",
            says="longer than 12 s",
            again=(limit, *retry),
        ),
        Fault(
            "a session hangs (SIGSTOP)",
            at_log("candidate", worker, halt, "it", limit),
            status="timeout",
            stage="measure",
            says="12 s",
            again=(limit, *retry),
        ),
        Fault(
            "out of memory in a stage",
            plain("limits.memory_mb=1500", FAULT="memory"),
            ("round",),
            (3,),
            "oom",
            "round",
            "limits.memory_mb",
            retry,
        ),
        Fault(  # OpenBLAS does not survive a failed allocation
            "a library crashes for want of memory",
            plain("limits.memory_mb=250"),
            ("prepare_model",),
            (3,),
            "crashed",
            "prepare_model",
            "limits.memory_mb",
            retry,
        ),
        Fault(
            "out of memory in a session",
            plain("limits.memory_mb=30"),
            (),
            (3,),
            "oom",
            "measure",
            "limits.memory_mb",
            retry,
        ),
        Fault(
            "an experiment over its time",
            plain("limits.cell_s=1"),
            ("to_onnx",),
            (3,),
            "timeout",
            "to_onnx",
            "limits.cell_s",
            retry,
        ),
        Fault(
            "a session cannot start",
            plain(FAULT="worker"),
            (),
            (3,),
            "crashed",
            "measure",
            "exit code 7",
            retry,
        ),
        Fault("the clock jumps back a day", plain(FAULT="clock"), ("count_work",)),
        Fault(
            "SIGKILL of the parent in the push",
            at_file("sweeps/*/*/tracking.json", kill),
            codes=(-kill,),
        ),
        Fault("SIGKILL between two experiments", at_file("sweeps/*/1_*", kill), codes=(-kill,)),
        Fault(
            "Ctrl-C once",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT),
            codes=(130,),
            says="when this stage is done(.|\n)*the same command goes on",
        ),
        Fault(
            "Ctrl-C twice",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGINT, 2),
            codes=(130,),
            says="the same command goes on",
        ),
    ]
    return rows


def _of_files() -> list[Fault]:
    """Disks and files that fail, and others who use them."""
    full = "[Nn]o space left on device|disk full"
    return [
        Fault("disk full: 60 KiB left", fi.small_disk(60, False), ("round",), (4,), says=full),
        Fault("disk full: 250 KiB left", fi.small_disk(250, False), ("round",), (4,), says=full),
        Fault("read-only output", fi.small_disk(0, True), codes=(4,), says="[Rr]ead-only"),
        Fault("corrupted cache entry", after(fi.flip), says="damaged cache entry removed"),
        Fault(
            "truncated record in the cache",
            after(fi.cut_record_in_cache),
            says="damaged cache entry removed",
        ),
        Fault(
            "truncated record in the sweep",
            after(fi.cut_record_in_sweep),
            says="record.json was changed since pqbench wrote it: it is kept as",
        ),
        Fault("truncated stage result", after(fi.cut_stage), says="damaged cache entry removed"),
        Fault("half-made entries and a stale lock", after(fi.leftovers)),
        Fault(
            "records and cache of records lost",
            after(fi.lose_cache),
            says="in the tracking store",
        ),
        Fault(
            "two sweeps in one folder",
            fi.two_in_one_folder,
            codes=(2,),
            says="another process runs a sweep",
        ),
        Fault("two sweeps at once, one cache", fi.two_at_once, ("round", "to_onnx")),
        Fault("sqlite locked", fi.sqlite_locked, says="results stay on disk", sync=True),
    ]


def _of_strangers() -> list[Fault]:
    """What a terminal, an environment, a signal or a neighbour does."""
    goes_on = "the same command goes on"
    return [
        Fault("disk full in the report", plain(FAULT="report"), codes=(4,), says="No space left"),
        Fault("an ASCII terminal", plain(PYTHONIOENCODING="ascii"), says="baseline"),
        Fault(
            "an address that is none",
            plain("tracking.uri=mlruns"),
            codes=(2,),
            says="tracking.uri=mlruns is a folder",
        ),
        Fault(
            "one bad byte in every record",
            after(fi.one_bad_byte("record.json")),
            says="record.json was changed since pqbench wrote it: it is kept as",
        ),
        Fault(
            "one bad byte in every journal",
            after(fi.one_bad_byte("tracking.json")),
            says="tracking.json is damaged; kept as",
        ),
        # The second command's protocol has another name, so its experiments are others.
        Fault(
            "a password in the address",
            fi.secret,
            says="pqbench.sync",
            sync=True,
            experiments=2 * EXPECTED,
        ),
        Fault("telemetry", fi.silent),
        Fault("a temporary folder of 90 characters", fi.long_temporary_folder, ("round",)),
        Fault(
            "a link where the locks go",
            fi.lock_folder_is_a_link,
            (),
            (3,),
            "failed",
            "measure",
            "is a link or a file",
            ("retry=failed",),
        ),
        Fault("a sweep that cannot be locked", fi.a_sweep_that_cannot_be_locked),
        Fault("a step that prints 60 MB", fi.chatter, ("round",)),
        Fault(
            "SIGTERM",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGTERM),
            codes=(130,),
            says=goes_on,
        ),
        Fault(
            "SIGHUP",
            at_file("sweeps/*/0_*/logs/candidate.log", signal.SIGHUP),
            codes=(130,),
            says=goes_on,
        ),
        Fault(
            "SIGKILL of the parent while a step has children of its own",
            at_file("strays", signal.SIGKILL, FAULT="strays"),
            ("round",),
            (-signal.SIGKILL,),
        ),
        Fault(
            "a limited step that leaves children",
            plain("limits.memory_mb=4000", FAULT="strays"),
            ("round",),
        ),
    ]


def faults() -> list[Fault]:
    """The whole matrix."""
    servers = ("down", "hangs", "500", "dies half way", "is well and then hangs")
    return [
        *_of_processes(),
        *_of_files(),
        *_of_strangers(),
        *(
            Fault(
                f"tracking server {m}",
                fi.with_server(m),
                says="python -m pqbench.sync",
                sync=True,
            )
            for m in servers
        ),
    ]


@dataclass
class Row:
    """What one fault did."""

    name: str
    code: int
    seconds: float
    stage: str = ""
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


def run_row(bench: Bench, fault: Fault) -> Row:
    bench.restore(fault.without)
    began = time.monotonic()
    code, output = fault.hurt(bench)
    row = Row(fault.name, code, time.monotonic() - began)
    row.left = len(fi.processes(bench))  # at once: the next command would end some of them
    if code == fi.NO_RIGHT:
        row.words = output
        return row
    row.statuses.update(status for status, _, _ in bench.endings())
    row.stage = fault.stage or next((s for s in STAGES if s in fault.name), "")
    before = bench.records()
    row.words = "; ".join(fault.wrong(code, output, bench))
    code, output = ended(start(bench, *fault.again))
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
    row.lost = fault.experiments - len(found) + len(set(before) - set(found))
    row.twice = sum(len(times) - 1 for times in found.values())
    row.twice += sum(set(before[f]) != set(found[f]) for f in before if f in found)
    runs = bench.runs()
    row.twice += sum(n - 1 for n in Counter((f, s) for t, f, s in runs if t == "FINISHED").values())
    row.lost += fault.experiments - len({f for t, f, _ in runs if t == "FINISHED"})
    row.running = sum(t == "RUNNING" for t, _, _ in runs)
    row.left += fi.left_behind(bench)
    return row


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    how = ", ".join(f"{n} {s}" for s, n in sorted(row.statuses.items())) or "no record"
    cells = [
        row.name,
        row.stage,
        how,
        row.code,
        f"{row.seconds:.0f}",
        row.lost,
        row.twice,
        row.running,
    ]
    cells += [row.left, "as it should" if row.good else f"WRONG: {row.words}"]
    return "| " + " | ".join(str(c).replace("\n", " ") for c in cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only faults whose name matches this pattern")
    parser.add_argument("--jobs", type=int, default=2, help="rows at once, each in its own folder")
    parser.add_argument("--out", type=Path, help="also write faults.md and faults.json here")
    args = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup would have every command ignore it
    todo = [fault for fault in faults() if re.search(args.only, fault.name)]
    rows: dict[str, Row] = {}
    heads = [
        "fault",
        "stage",
        "records then",
        "exit",
        "s",
        "lost",
        "twice",
        "RUNNING",
        "left",
        "outcome",
    ]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}", flush=True)

    def work(folder: Path) -> None:
        bench = fi.prepare(folder)
        while waiting:
            fault = waiting.popleft()
            rows[fault.name] = row = run_row(bench, fault)
            print(line(row), flush=True)

    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        (top / "site").mkdir()
        (top / "site" / "sitecustomize.py").write_text(fi.SITE)
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
