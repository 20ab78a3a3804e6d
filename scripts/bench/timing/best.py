"""``search=best`` against the exhaustive sweep: the same answer, and at which share of its cost?

A space of 60 cells: two models with trained weights on photographs of solar cells, ten recipes
(with their settings) and three runtimes. Quantized ONNX files do not run in PyTorch, and those
cells say so either way. The sweep measures all of them, then each seed's search looks for the
answer.

Costs are comparable so: what compresses, exports and prepares is made once, beforehand, and
counted in full for the sweep and for each search, since each search looks at every cell. Records
are shared by nobody: each search has a folder of its own, to which those stages alone are linked,
and a seed of its own for the order of its blocks. CPU time is that of the command and of all that
it started.

A search agrees if its answer is the sweep's, or a cell that the sweep's own report calls equal to
it. The parts go on where they were stopped, in any number of calls:

    python scripts/bench/timing/best.py OUT --only stages
    python scripts/bench/timing/best.py OUT --only sweep search --seconds 450
    python scripts/bench/timing/best.py OUT --only compare

Leave the machine alone while it sweeps and searches.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

SPACE = [
    "model=mobilenetv3,efficientnet_lite0",
    "dataset=elpv",
    "dataset.train_limit=256",
    "claim.max_drop_pt=3",
    "backend=torch,ort,openvino",
    "compress=none,prune,prune_unstructured,fp16,ort_int8,nncf_int8,[prune_unstructured,ort_int8]",
    "compress.prune.pruning_ratio=0.05,0.1",
    "compress.ort_int8.method=minmax,mean_minmax",
    "compress.ort_int8.calibration_size=64",
    "compress.nncf_int8.calibration_size=64",
]
MEASURED = ["protocol.batch_sizes=[1]", "tracking=none"]
SMALLEST = [
    *("protocol=quick", "protocol.batch_sizes=[1]", "protocol.max_seconds=0.1"),
    *("protocol.block_s=0.02", "protocol.min_pairs=1", "protocol.processes=1"),
    *("protocol.max_disturbed=0", "protocol.quiet_wait_s=0", "protocol.warmup_s=0.01"),
    *("protocol.weigh=false", "protocol.score=false", "tracking=none"),
]
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        out: Folder for everything.
        space: Overrides of the space.
        protocol: Of the full measurement.
        budget: Of a search.
    """

    out: Path
    space: tuple[str, ...]
    protocol: str
    budget: str

    def account(self) -> dict[str, Any]:
        """Costs of the parts so far."""
        with suppress(OSError):
            found: dict[str, Any] = json.loads((self.out / "costs.json").read_text())
            return found
        return {}


def adopt() -> None:
    """Become the parent of what a command leaves behind, so that its CPU time is counted."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Wait for what was left behind."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def used() -> float:
    """CPU time of all children that have ended, in s."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def part(settings: Settings, name: str, arguments: list[str], left_s: float) -> bool:
    """Run a part, or go on with it; whether it is done.

    Args:
        settings: What is compared.
        name: Of the part.
        arguments: Of ``python -m pqbench``.
        left_s: It is stopped after this time, in s.
    """
    account = settings.account()
    entry = account.get(name, {"cpu_s": 0.0, "wall_s": 0.0, "done": False})
    if entry["done"]:
        return True
    if left_s < 1:
        return False
    began, cpu = time.perf_counter(), used()
    with (settings.out / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pqbench", *arguments], cwd=settings.out, stdout=log, stderr=log
        )
        try:
            code = process.wait(left_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # when the running stage is done
            process.wait()
            code = None
    reap()
    entry["cpu_s"] += used() - cpu
    entry["wall_s"] += time.perf_counter() - began
    entry["done"] = code in (0, 3)  # 3: a cell has no result, as those that PyTorch cannot load
    if code not in (None, 0, 3, 130):
        sys.exit(f"{name} ended with code {code}: {settings.out / name}.log")
    account[name] = entry
    (settings.out / "costs.json").write_text(json.dumps(account, indent=1))
    print(f"{name}: {entry}", flush=True)
    return bool(entry["done"])


def linked(settings: Settings, name: str) -> Path:
    """A part's own outputs, with the stages that were made beforehand and no records."""
    target = settings.out / name
    if not target.is_dir():
        source = settings.out / "stages" / "cache"
        for folder in (f for f in source.iterdir() if f.name != "records"):
            place = target / "cache" / folder.name
            place.parent.mkdir(parents=True, exist_ok=True)
            if folder.is_dir():
                shutil.copytree(folder, place, copy_function=os.link)
            else:
                shutil.copy2(folder, place)
    return target


def command(settings: Settings, name: str, *arguments: str) -> list[str]:
    """Arguments of a part that measures."""
    outputs = linked(settings, name)
    return [
        *settings.space,
        *MEASURED,
        *(f"protocol={settings.protocol}", f"outputs={outputs}"),
        *(f"hydra.sweep.dir={outputs / 'run'}", *arguments),
    ]


def cells(folder: Path) -> Iterator[dict[str, Any]]:
    """The answers of a sweep or search, with the cells that equal each."""
    plain = json.loads((folder / "run" / "report" / "answer.json").read_text())
    yield from plain["answers"]


def cell_of(folder: Path, found: dict[str, Any] | None) -> str:
    """A cell by what was chosen, its settings included; ``stay`` where there is no answer."""
    if found is None:
        return "stay with FP32"
    from pqbench.report.load import find_records

    for record, _ in find_records(folder / "run"):
        if record.fingerprint == found["fingerprint"]:
            steps = json.dumps(record.config["compress"], sort_keys=True)
            return f"{found['name']} {steps}"
    raise LookupError(found["fingerprint"])


def compare(settings: Settings, seeds: list[int]) -> int:
    """Print answers and costs; 1 if fewer than four of five agree or a quarter is exceeded."""
    account = settings.account()
    whole = settings.out / "sweep"
    truth: dict[str, set[str]] = {}
    for one in cells(whole):
        keep = [one["best"], *one["equals"]]
        truth[one["model"]] = {cell_of(whole, found) for found in keep}
        print(f"sweep, {one['model']}: {one['sentence']}")
        for found in one["equals"]:
            print(f"    as good: {found['name']}")
    made = account["stages"]["cpu_s"]
    full = made + account["sweep"]["cpu_s"]
    print(f"stages {made:.0f} s of CPU; sweep {full:.0f} s with them")
    agree, shares = 0, []
    for seed in seeds:
        name = f"search{seed}"
        if not account.get(name, {}).get("done"):
            continue
        folder = settings.out / name
        same = True
        said = {one["model"]: one for one in cells(folder)}
        for model, right in truth.items():
            one = said.get(model)
            good = one is not None and cell_of(folder, one["best"]) in right
            same = same and good
            shown = "no answer" if one is None else "stay with FP32"
            shown = one["best"]["name"] if one is not None and one["best"] else shown
            print(f"seed {seed}, {model}: {shown}: {'agrees' if good else 'DIFFERS'}")
        agree += same
        share = (made + account[name]["cpu_s"]) / full
        alone = account[name]["cpu_s"] / account["sweep"]["cpu_s"]
        shares.append(share)
        print(f"    {share:.0%} of the sweep's CPU time; {alone:.0%} without the stages")
    print(f"{agree} of {len(shares)} searches agree; the dearest took {max(shares):.0%}")
    return 0 if agree >= 0.8 * len(shares) and max(shares) <= 0.25 else 1


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("stages", "sweep", "search", "compare")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of this call")
    parser.add_argument("--protocol", default="default", help="of the full measurement")
    parser.add_argument("--budget", default="30m", help="of each search")
    parser.add_argument("--space", nargs="+", default=SPACE, help="overrides of the space")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    settings = Settings(out, tuple(args.space), args.protocol, args.budget)
    adopt()
    end = time.monotonic() + min(args.seconds, 1e6)

    def left() -> float:
        return end - time.monotonic()

    if "stages" in args.only:
        given = [*settings.space, *SMALLEST, f"outputs={out / 'stages'}", "-m"]
        if not part(settings, "stages", given, left()):
            return 1
    if "sweep" in args.only and not part(
        settings, "sweep", command(settings, "sweep", "-m"), left()
    ):
        return 1
    if "search" in args.only:
        for seed in args.seeds:
            name = f"search{seed}"
            chosen = ["search=best", f"budget={settings.budget}", f"protocol.seed={seed}"]
            if not part(settings, name, command(settings, name, *chosen), left()):
                return 1
    return compare(settings, args.seeds) if "compare" in args.only else 0


if __name__ == "__main__":
    sys.exit(main())
