r"""What the cache saves: one sweep with an empty cache, with a full one, and without any.

2 models x 4 recipes x 3 backends. "warm" measures everything again (``force=true``) on the stages
that "cold" left; "off" computes every stage of every experiment. Wall times, and how many stages
were computed of those that the experiments needed (their baselines' included).

    python scripts/bench/faults/cache_savings.py   # a user's tiny networks and steps
    python scripts/bench/faults/cache_savings.py model=mobilenetv3_small,resnet18 \
        compress=none,nncf_int8,ort_int8,prune backend=torch,ort,openvino dataset.limit=100
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fault_bench import tiny

from pqbench.report.load import find_records

TINY = [
    "model=tiny,tinier",
    "compress=none,round,coarse,[round,coarse]",
    "backend=torch,ort,openvino",
]
WAYS = {"cold": [], "warm": ["force=true"], "off": ["cache=false"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("arguments", nargs="*", help="of pqbench; default: the tiny sweep")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        models = folder / "conf" / "model"
        text = (models / "tiny.yaml").read_text().replace("name: tiny", "name: tinier")
        text = text.replace("tiny_network}", "tiny_network, width: 4}")
        (models / "tinier.yaml").write_text(text)
        command = [sys.executable, "-m", "pqbench", *args.arguments]
        if not args.arguments:
            command = tiny.command(*TINY)
        print(f"{'cache':5} {'s':>6} {'experiments':>12} {'measured':>9} {'stages needed':>14} ran")
        for way, more in WAYS.items():
            where = f"outputs/sweeps/{way}"
            began = time.monotonic()
            done = subprocess.run(
                [*command, *more, f"hydra.sweep.dir={where}", "-m"],
                cwd=folder,
                env=tiny.environment(XDG_RUNTIME_DIR=str(folder)),
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - began
            found = find_records(folder / where)
            cells = [r for r, at in found if at.name != "baseline"]
            if done.returncode or not all(r.ok for r in cells):
                print(f"{way} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
                return 1
            measured = {(r.fingerprint, r.created): r for r, _ in found}
            stages = [s for r in measured.values() for s in r.stages if s.name != "measure"]
            ran = Counter(s.name for s in stages if not s.cached)
            print(
                f"{way:5} {seconds:6.0f} {len(cells):12} {len(measured):9} {len(stages):14} "
                f"{sum(ran.values())} ({', '.join(f'{n} {s}' for s, n in ran.items())})",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
