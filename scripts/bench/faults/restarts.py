"""A sweep that is killed at random moments and restarted, against an undisturbed one.

SIGKILL hits the command itself, its fork server, a stage or a session, drawn at random like the
moment (seeded). What still runs is let end, and the same command then goes on (retry=failed: a cell
whose process was killed is a row that says so). A sweep that comes to its end before its kills are
used up is compared with the undisturbed one and a new one begins. At every end: the same set of
records (fingerprint and status), none measured again after it was finished, none twice in MLflow,
no run RUNNING, nothing left behind.

    python scripts/bench/faults/restarts.py [--kills 10] [--seed 0] [ARGUMENTS of pqbench ...]
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from fault_bench import (
    SESSION,
    Bench,
    ended,
    is_session,
    left_behind,
    own_folders,
    processes,
    tiny,
)

SWEEP = ["compress=none,round,coarse", "backend=torch,ort"]
START_S = 0.5
VICTIMS = ("command", "forkserver", "pqbench.workers.stage", SESSION)
SHARE = 0.8
"""Kills fall in this share of the time of an undisturbed sweep, counted from each start."""


class Broken(Exception):
    """A record was lost, doubled or left behind."""


def compare(bench: Bench, expected: set[str], seen: dict[str, set[str]]) -> None:
    """Whether the sweep's end is that of the undisturbed one.

    Raises:
        Broken: It is not; the message says how.
    """
    found = bench.records()
    if set(found) != expected:
        raise Broken(f"lost {expected - set(found)}, new {set(found) - expected}")
    twice = [f for f, times in found.items() if len(times) > 1]
    twice += [f for f, times in seen.items() if times != set(found[f])]
    runs = bench.runs()
    pushed = Counter((f, sweep) for status, f, sweep in runs if status == "FINISHED")
    twice += [f for (f, _), count in pushed.items() if count > 1]
    missing = expected - {f for f, _ in pushed}
    running = sum(status == "RUNNING" for status, _, _ in runs)
    left = left_behind(bench)
    if twice or missing or running or left:
        raise Broken(f"twice {twice}, not in MLflow {missing}, RUNNING {running}, left {left}")


def strike(bench: Bench, command: int, victim: str, draw: random.Random) -> str:
    """Kill a process of the kind wanted, or the command where there is none; says which."""
    found = []
    for pid in processes(bench, patience_s=0):
        try:
            line = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue
        if pid != command and (is_session(pid) if victim == SESSION else victim in line):
            found.append(pid)
    target = draw.choice(sorted(found)) if found else command
    try:
        psutil.Process(target).kill()
    except psutil.Error:
        return f"{victim} (it had just ended)"
    return victim if found else "command"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("arguments", nargs="*", default=SWEEP, help="the sweep; default: six")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        bench = Bench(folder, folder / "outputs", folder / "template")
        bench.restore_folders()
        own = own_folders(bench)
        bench.there = bench.files()
        began = time.monotonic()
        code, output = ended(tiny.start(folder, *args.arguments, "-m", **own))
        whole = time.monotonic() - began
        if code:
            raise SystemExit(f"the undisturbed sweep failed:\n{output}")
        expected = set(bench.records())
        print(f"undisturbed: {len(expected)} records, {whole:.0f} s", flush=True)
        kills = sweeps = 0
        while kills < args.kills:
            shutil.rmtree(bench.outputs)
            seen: dict[str, set[str]] = {}
            sweeps += 1
            while True:
                process = tiny.start(folder, *args.arguments, "retry=failed", "-m", **own)
                victim = draw.choice(VICTIMS)
                moment = draw.uniform(START_S, whole * SHARE)
                end = time.monotonic() + moment
                while kills < args.kills and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.005)
                killed = kills < args.kills and process.poll() is None
                if killed:
                    hit = strike(bench, process.pid, victim, draw)
                    kills += 1
                code, output = ended(process)
                finished = {f: set(times) for f, times in bench.records().items()}
                for fingerprint, times in seen.items():
                    if finished.get(fingerprint) != times:
                        raise Broken(f"{fingerprint} was finished and is lost or measured again")
                seen = finished
                if not killed:
                    break
                print(
                    f"kill {kills}: {hit} after {moment:.2f} s, {len(finished)} records finished",
                    flush=True,
                )
            if code:
                raise SystemExit(f"the restarted sweep ended with {code}:\n{output}")
            compare(bench, expected, seen)
            print(f"sweep {sweeps}: the same {len(expected)} records")
    print(f"{kills} kills in {sweeps} sweeps: 0 records lost, 0 twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
