"""What pqbench costs besides measuring: start-up, one cell, and one experiment that is all found.

Start-up is ``--help`` against that of a Hydra app that does nothing. The fixed cost of an
experiment is the slope of the time of a sweep of finished experiments over their number. Times are
wall time and, for a machine that has other work, the processor time of the command.

The fixed cost of a cell is the wall time of a command that finds everything but the timing, less
its timed calls; it is split by when the command's files were written.

    python scripts/bench/timing/fixed_costs.py [--only help] [--repeats 5] [--cells 8]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import tiny_sweep as tiny  # noqa: E402

BARE = """
import hydra
from omegaconf import DictConfig

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def app(config: DictConfig) -> None: ...

app()
"""


class Cost(NamedTuple):
    """Seconds of a command: wall time, and processor time of it and its children."""

    wall: float
    cpu: float


def cpu_of_children() -> float:
    """Processor time of all children that have ended, in s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cost(command: list[str], folder: Path) -> Cost:
    """What a command costs that must succeed."""
    began, used = time.perf_counter(), cpu_of_children()
    subprocess.run(
        command,
        cwd=folder,
        env=tiny.environment(XDG_RUNTIME_DIR=str(folder)),
        check=True,
        capture_output=True,
    )
    return Cost(time.perf_counter() - began, cpu_of_children() - used)


def first_stage(folder: Path) -> float:
    """From the command to the first stage's process."""
    began = time.perf_counter()
    process = tiny.start(folder, "compress=none", "backend=torch", "tracking=none", "cache=false")
    while process.poll() is None and not list(folder.glob("outputs/runs/*/logs/*.log")):
        time.sleep(0.002)
    found = time.perf_counter() - began
    process.kill()
    process.communicate()
    return found


def start_up(folder: Path, repeats: int) -> None:
    """``--help`` and that of a bare app, in turns, so that drift of the machine cancels."""
    (folder / "bare.py").write_text(BARE)
    ours, bare = [], []
    for _ in range(repeats):
        bare.append(cost([sys.executable, "bare.py", "--help"], folder))
        ours.append(cost([sys.executable, "-m", "pqbench", "--help"], folder))
    for kind, name in enumerate(Cost._fields):
        a, b = (statistics.median(c[kind] for c in costs) for costs in (ours, bare))
        print(
            f"--help, {name}: {a:.2f} s, a bare Hydra app {b:.2f} s: {a / b:.2f} times", flush=True
        )


def cell(folder: Path, backend: str) -> None:
    """A recipe and its baseline, all stages found: where the time beside the timed calls goes."""
    import pandas as pd

    command = [sys.executable, "-m", "pqbench", "--config-dir", "conf", "model=tiny"]
    command += [*tiny.FOLDER, "protocol=quick", f"backend={backend}"]
    cost([*command, "compress=[round]", "protocol.max_seconds=0.1"], folder)  # fills the cache
    run = folder / f"again-{backend}"
    began = time.time()
    whole = cost([*command, "compress=[round]", f"hydra.run.dir={run}"], folder)
    ended = time.time()
    timed = {}
    for name, where in (("baseline", run / "baseline"), ("cell", run)):
        calls = pd.read_parquet(where / "latency.parquet", columns=["ns"])
        timed[name] = float(calls["ns"].sum()) / 1e9
    moments = [
        ("from the command to the baseline's weighing", run / "baseline/logs/weigh_candidate.log"),
        ("baseline timed", run / "baseline" / "latency.parquet"),
        ("baseline recorded", run / "baseline" / "record.json"),
        ("weighing of the cell begins", run / "logs" / "weigh_candidate.log"),
        ("cell timed", run / "latency.parquet"),
        ("cell recorded", run / "record.json"),
    ]
    print(f"{backend}, a cell and its baseline, all found but the timing: {whole.wall:.1f} s")
    last = began
    for what, file in moments:
        at = file.stat().st_mtime  # a session that prints nothing leaves its log as it was made
        print(f"    {at - last:6.2f} s  {what}")
        last = at
    print(f"    {ended - last:6.2f} s  to the end of the command")
    beside = whole.wall - sum(timed.values())
    print(
        f"    timed calls {sum(timed.values()):.1f} s; beside them {beside:.1f} s, of which the "
        f"cell itself {moments_between(run) - timed['cell']:.1f} s",
        flush=True,
    )


def moments_between(run: Path) -> float:
    """From the record of the baseline to that of the cell, in s."""
    return (run / "record.json").stat().st_mtime - (
        run / "baseline" / "record.json"
    ).stat().st_mtime


def found_again(folder: Path, cells: int) -> None:
    """A sweep of finished experiments, by the number of them."""
    seeds = ",".join(str(n) for n in range(cells))
    sweep = tiny.command(f"seed={seeds}", "compress=none", "backend=torch", "-m")
    one = tiny.command("seed=0", "compress=none", "backend=torch", "-m")
    cost(sweep, folder)
    many, single = cost(sweep, folder), cost(one, folder)
    for kind, name in enumerate(Cost._fields):
        each = (many[kind] - single[kind]) / (cells - 1)
        print(
            f"everything found, {name}: {single[kind]:.1f} s for one experiment, "
            f"{many[kind]:.1f} s for {cells}: {each:.2f} s for each more",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("help", "stage", "cell", "found"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        if args.only in (None, "help"):
            start_up(folder, args.repeats)
        if args.only in (None, "stage"):
            print(f"first stage after {first_stage(folder):.2f} s", flush=True)
        if args.only in (None, "cell"):
            for backend in ("ort", "torch"):
                cell(folder, backend)
        if args.only in (None, "found"):
            found_again(folder, args.cells)


if __name__ == "__main__":
    main()
