"""One sweep of eight experiments by every launcher: are they the same experiments, timed alike?

Each launcher gets an empty outputs folder. The fingerprints must be the same set, every experiment
ok. The device lock makes timing exclusive, so a latency under two jobs at once should be the
serial one: printed is in how many experiments the two 95 % intervals meet. No run may be twice in
MLflow or RUNNING. Slurm runs where ``srun`` answers, Ray where its launcher is installed.

With ``--cells 200`` there are so many, of which only the order of the blocks differs, and none may
be lost; ``--without-serial`` leaves out the serial sweep, with which the others are compared.

    python scripts/bench/faults/launchers.py [--only joblib] [ARGUMENTS of pqbench ...]
    python scripts/bench/faults/launchers.py --only ray --cells 200 --without-serial
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fault_bench import Bench, tiny

from pqbench.core.record import Record
from pqbench.report.load import find_records

SWEEP = ["compress=none,round", "backend=torch,ort", "-m"]
CELLS = 8
SUBMITIT = ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=4"]
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", *SUBMITIT],
    "submitit_slurm": ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", *SUBMITIT],
    "ray": ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"],
}


def missing(launcher: str) -> str:
    """Why a launcher cannot be tried here; empty if it can."""
    if launcher == "submitit_slurm" and shutil.which("srun") is None:
        return "no srun here"
    module = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
    return "" if importlib.util.find_spec(module) else "not installed here"


def seeds(cells: int) -> str:
    """What the sweep also varies, so that it has so many cells."""
    numbers = ",".join(str(number) for number in range(cells // 4))
    return f"seed={numbers}" if cells == CELLS else f"protocol.seed={numbers}"


def sweep(folder: Path, name: str, more: list[str], cells: int) -> tuple[float, dict[str, Record]]:
    """Wall time in s and the records by fingerprint, baselines left out.

    Raises:
        SystemExit: The sweep failed.
    """
    began = time.monotonic()
    process = tiny.start(folder, *SWEEP, seeds(cells), *LAUNCHERS[name], *more, f"outputs={name}")
    output, _ = process.communicate()
    code = process.returncode
    seconds = time.monotonic() - began
    found = [r for r, where in find_records(folder / name) if where.name != "baseline"]
    records = {r.fingerprint: r for r in found}
    if code or len(records) != cells or not all(r.ok for r in found):
        raise SystemExit(f"{name} ended with {code}, {len(records)} records:\n{output}")
    if len(found) != cells:
        raise SystemExit(f"{name}: {len(found)} records of {cells} experiments")
    if (folder / name / "mlflow.db").exists():
        runs = Bench(folder, folder / name, folder).runs()
        counted = Counter(fingerprint for _, fingerprint, _ in runs)
        if max(counted.values()) > 1 or any(status == "RUNNING" for status, _, _ in runs):
            raise SystemExit(f"{name}: MLflow holds {runs}")
    return seconds, records


def meet(one: Record, other: Record) -> bool:
    """Whether the intervals of the two medians have a point in common."""
    a, b = one.latency[0], other.latency[0]
    return a.p50_low_ms <= b.p50_high_ms and b.p50_low_ms <= a.p50_high_ms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only launchers whose name holds this word")
    parser.add_argument("--cells", type=int, default=CELLS, help="a multiple of 4")
    parser.add_argument("--without-serial", action="store_true")
    parser.add_argument("arguments", nargs="*", help="more arguments of pqbench")
    args = parser.parse_args()
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        print(f"{'launcher':15} {'s':>5} {'records':>8} {'same':>5} {'intervals meet':>15}")
        serial: dict[str, Record] | None = None
        if not args.without_serial:
            seconds, serial = sweep(folder, "basic", args.arguments, args.cells)
            print(f"{'basic':15} {seconds:5.0f} {len(serial):8} {'':>5}", flush=True)
        for launcher in list(LAUNCHERS)[1:]:
            if args.only not in launcher:
                continue
            why = missing(launcher)
            if why:
                print(f"{launcher:15} {why}")
                continue
            seconds, records = sweep(folder, launcher, args.arguments, args.cells)
            if serial is None:
                print(f"{launcher:15} {seconds:5.0f} {len(records):8}", flush=True)
                continue
            equal = set(records) == set(serial)
            same = same and equal
            near = sum(meet(records[f], serial[f]) for f in set(records) & set(serial))
            print(
                f"{launcher:15} {seconds:5.0f} {len(records):8} {'yes' if equal else 'NO':>5} "
                f"{near:9} of {args.cells}",
                flush=True,
            )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
