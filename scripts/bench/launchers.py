"""One sweep of eight experiments by every launcher: are they the same experiments, timed alike?

Each launcher gets an empty outputs folder. The fingerprints must be the same set, every experiment
ok. The device lock makes timing exclusive, so a latency under two jobs at once should be the
serial one: printed is in how many experiments the two 95 % intervals meet. Slurm runs where
``srun`` answers.

    python scripts/bench/launchers.py [--only joblib]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from hurt import tiny

from pqbench.record import Record
from pqbench.report.load import find_records

SWEEP = ["compress=none,round", "backend=torch,ort", "seed=0,1", "-m"]
CELLS = 8
SUBMITIT = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4"]
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", *SUBMITIT],
    "submitit_slurm": ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", *SUBMITIT],
}


def sweep(folder: Path, name: str) -> tuple[float, dict[str, Record]]:
    """Wall time in s and the records by fingerprint, baselines left out.

    Raises:
        SystemExit: The sweep failed.
    """
    began = time.monotonic()
    code, output = tiny.run(folder, *SWEEP, *LAUNCHERS[name], f"outputs={name}")
    seconds = time.monotonic() - began
    found = [r for r, where in find_records(folder / name) if where.name != "baseline"]
    records = {r.fingerprint: r for r in found}
    if code or len(records) != CELLS or not all(r.ok for r in found):
        raise SystemExit(f"{name} ended with {code}, {len(records)} records:\n{output}")
    if len(found) != CELLS:
        raise SystemExit(f"{name}: {len(found)} records of {CELLS} experiments")
    return seconds, records


def meet(one: Record, other: Record) -> bool:
    """Whether the intervals of the two medians have a point in common."""
    a, b = one.latency[0], other.latency[0]
    return a.p50_low_ms <= b.p50_high_ms and b.p50_low_ms <= a.p50_high_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only launchers whose name holds this word")
    args = parser.parse_args()
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        seconds, serial = sweep(folder, "basic")
        print(f"{'launcher':15} {'s':>5} {'records':>8} {'same':>5} {'intervals meet':>15}")
        print(f"{'basic':15} {seconds:5.0f} {len(serial):8} {'':>5}", flush=True)
        for launcher in list(LAUNCHERS)[1:]:
            if args.only not in launcher:
                continue
            if launcher == "submitit_slurm" and shutil.which("srun") is None:
                print(f"{launcher:15} no srun here")
                continue
            seconds, records = sweep(folder, launcher)
            equal = set(records) == set(serial)
            same = same and equal
            near = sum(meet(records[f], serial[f]) for f in set(records) & set(serial))
            print(
                f"{launcher:15} {seconds:5.0f} {len(records):8} {'yes' if equal else 'NO':>5} "
                f"{near:9} of {CELLS}",
                flush=True,
            )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
