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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fault import Fault
from fault_bench import Bench, ended, left_behind, prepare, processes, start, tiny
from fault_injection import NO_RIGHT, SITE
from fault_matrix import faults
from process_faults import STAGES


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
    row.left = len(processes(bench))  # at once: the next command would end some of them
    if code == NO_RIGHT:
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
    row.left += left_behind(bench)
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
