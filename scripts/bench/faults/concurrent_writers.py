"""Several processes that push to one tracking store at once: is every record there, and once?

Each writer pushes its own records and a copy of one baseline that all share, as the jobs of a sweep
do; when it has finished it pushes everything once more, as a sweep that is given again does.

    python scripts/bench/faults/concurrent_writers.py --uri postgresql://USER:PASSWORD@HOST/mlflow
    python scripts/bench/faults/concurrent_writers.py --uri http://HOST:5000 [--writers 8]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from record_factory import make_record  # noqa: E402

from pqbench.core.record import Record  # noqa: E402
from pqbench.tracking.push import push  # noqa: E402
from pqbench.tracking.settings import TrackingSettings  # noqa: E402
from pqbench.tracking.store import ensure_store, opened  # noqa: E402


def write(settings: TrackingSettings, sweep: str, folders: list[Path]) -> list[float]:
    """One writer; gives the seconds of each push."""
    times = []
    for _ in range(2):
        for folder in folders:
            began = time.perf_counter()
            if push(Record.load(folder), folder, settings, sweep) is None:
                raise SystemExit(f"{folder} was not pushed")
            times.append(time.perf_counter() - began)
    return times[: len(folders)]


def records(top: Path, writers: int, each: int) -> list[list[Path]]:
    """The folders of every writer's records; the shared baseline first."""
    baseline = make_record(recipe=())
    found = []
    for writer in range(writers):
        folders = [top / str(writer) / "baseline"]
        folders += [top / str(writer) / str(number) for number in range(each)]
        for number, folder in enumerate(folders):
            record = baseline
            if number:
                record = make_record(recipe=("nncf_int8",))
                record.fingerprint = f"{writer:08x}{number:08x}"
            record.files = {}
            folder.mkdir(parents=True)
            record.save(folder)
        found.append(folders)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", help="of the store; default: an sqlite file")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--each", type=int, default=10, help="records of each writer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "cache" / "locks").mkdir(parents=True)
        settings = TrackingSettings(
            uri=args.uri, outputs=name, experiment=f"writers {time.time():.0f}", timeout_s=60
        )
        experiment = ensure_store(settings)
        if experiment is None:
            return 1
        work = records(top / "records", args.writers, args.each)
        expected = {Record.load(folder).fingerprint for folders in work for folder in folders}
        began = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(args.writers) as pool:
            times = pool.starmap(write, [(settings, "sweep", folders) for folders in work])
        seconds = time.perf_counter() - began
        with opened(settings) as client:
            runs = client.search_runs([experiment], max_results=10000)
    found = Counter(run.data.tags["fingerprint"] for run in runs)
    lost = len(expected - set(found))
    twice = sum(count - 1 for count in found.values())
    running = sum(run.info.status != "FINISHED" for run in runs)
    flat = [t for some in times for t in some]
    print(
        f"{args.writers} writers, {len(expected)} records in {seconds:.1f} s: lost {lost}, "
        f"twice {twice}, RUNNING {running}; a push takes {statistics.median(flat):.2f} s "
        f"(worst {max(flat):.2f} s)"
    )
    return 1 if lost or twice or running else 0


if __name__ == "__main__":
    sys.exit(main())
