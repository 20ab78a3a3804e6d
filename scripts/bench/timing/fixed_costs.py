"""What pqbench costs besides measuring: start-up, one cell, and one experiment that is all found.

Start-up is ``--help`` against that of a Hydra app that does nothing. The fixed cost of an
experiment is the slope of the time of a sweep of finished experiments over their number. Times are
wall time and, for a machine that has other work, the processor time of the command.

The fixed cost of a cell is the wall time of a command that finds everything but the timing, less
its timed calls; it is split by when the command's files were written.

The other figures are those of single functions: the cache, a data set's listing, histogram
calibration against the bare library, prepared images. ``growth.py`` says how they grow.

    python scripts/bench/timing/fixed_costs.py [--only help cell] [--repeats 5] [--cells 8]
        [--images data/imagenette2-320]
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(Path(__file__).parent)]
import costs_in_process  # noqa: E402
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


def backends(folder: Path) -> None:
    """``--backends``: which can run here."""
    taken = [cost([sys.executable, "-m", "pqbench", "--backends"], folder) for _ in range(2)]
    print(f"--backends: {taken[-1].wall:.1f} s, {taken[-1].cpu:.1f} s of CPU", flush=True)


def cache_and_listing(folder: Path) -> None:
    """``Cache.keep`` among 3,000 entries, an entry found again, the listing of 20,000 files."""
    ((count, seconds),) = costs_in_process.keep_seconds(folder / "entries", [3000]).items()
    print(f"cache.keep among {count:,} entries: {seconds * 1e3:.1f} ms", flush=True)
    taken = costs_in_process.lookup_seconds(folder / "large", 1024)
    again = ", ".join(f"{s:.2f}" for s in taken)
    print(f"an entry of 1 GiB found, three times in one process: {again} s", flush=True)
    costs_in_process.make_images(folder / "many", 20_000)
    listed, hashed, bare = (s / 0.02 for s in costs_in_process.listing_seconds(folder / "many"))
    print(
        f"listing of 20,000 files, us per file: {listed:.1f} and its hash {hashed:.1f}; "
        f"os.scandir with a stat of each {bare:.1f}",
        flush=True,
    )


def calibration(folder: Path) -> None:
    """Entropy and percentile calibration against the bare library, in turns."""
    costs_in_process.prepare_calibration(folder)
    for method in ("entropy", "percentile"):
        for count in (10, 40):
            (bare, bare_mb), (ours, ours_mb) = (
                costs_in_process.calibration_cost(folder, method, count, kind)
                for kind in (True, False)
            )
            print(
                f"ort_int8 method={method}, {count} images: {ours:.1f} s and {ours_mb:.0f} MiB; "
                f"the bare library {bare:.1f} s and {bare_mb:.0f} MiB: {ours / bare:.2f} times",
                flush=True,
            )


def images(folder: Path, root: Path, threads: int = 2) -> None:
    """Images prepared per second."""
    rates = [costs_in_process.images_per_second(root, folder, 1000, threads) for _ in range(3)]
    ours, bare = (statistics.median(r[kind] for r in rates) for kind in (0, 1))
    print(
        f"images prepared with {threads} threads: {ours:.0f}/s; decoding alone {bare:.0f}/s",
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
    parts = ("help", "backends", "stage", "cell", "found", "cache", "calibration", "images")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; none: left out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        if "help" in args.only:
            start_up(folder, args.repeats)
        if "backends" in args.only:
            backends(folder)
        if "stage" in args.only:
            print(f"first stage after {first_stage(folder):.2f} s", flush=True)
        if "cell" in args.only:
            for backend in ("ort", "torch"):
                cell(folder, backend)
        if "found" in args.only:
            found_again(folder, args.cells)
        if "cache" in args.only:
            cache_and_listing(folder)
        if "calibration" in args.only:
            calibration(folder)
        if "images" in args.only and args.images is not None:
            images(folder, args.images)


if __name__ == "__main__":
    main()
