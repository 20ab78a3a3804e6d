"""How long and how much memory a report over many records takes.

Writes so many records, then runs ``python -m pqbench.report`` on them in a
process of its own. The aim: 10,000 records within 15 s and 1 GB::

    python scripts/bench/timing/report_scale.py --records 10000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

MAX_SECONDS = 15.0
MAX_GB = 1.0


def write_records(folder: Path, count: int) -> int:
    """Records of 50 models, 4 backends and as many recipes as are needed; bytes of one file."""
    from record_factory import make_record

    from pqbench.machine.describe import describe

    environment = describe(2)
    size = 0
    for number in range(count):
        recipe = () if number % 50 == 0 else (f"step{number % 50}", "nncf_int8")
        record = make_record(
            model=f"model{number // 200}",
            backend=("ort", "openvino", "torch", "tensorrt")[number // 50 % 4],
            recipe=recipe,
            ms=2.0 + number % 37 / 10,
            speedup=0.8 + number % 31 / 20,
            top1=0.7 + number % 200 / 1000,
            drop_pt=number % 50 / 10,
        )
        record.environment = environment
        where = folder / f"{number // 1000}" / str(number)
        where.mkdir(parents=True)
        size = record.save(where).stat().st_size
    return size


def main() -> int:
    """Write, run, print; 1 if the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--no-plots", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_records(folder / "records", args.records)
        print(f"{args.records} records of {size / 1024:.1f} KiB", flush=True)
        command = [sys.executable, "-m", "pqbench.report", str(folder / "records")]
        command += ["--out", str(folder / "out"), *(["--no-plots"] if args.no_plots else [])]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = used.ru_maxrss / 2**20
        print(
            f"{seconds:.1f} s, of which {used.ru_utime + used.ru_stime:.1f} s of CPU; "
            f"peak {peak:.2f} GiB"
        )
        page = (folder / "out" / "report.html").stat().st_size / 2**20
        print(f"report.html {page:.1f} MiB")
    return 0 if seconds <= MAX_SECONDS and peak <= MAX_GB else 1


if __name__ == "__main__":
    sys.exit(main())
