"""What pqbench costs besides measuring: start-up, and one experiment that is all found.

Start-up is ``--help`` against that of a Hydra app that does nothing. The fixed cost of an
experiment is the slope of the wall time of a sweep of finished experiments over their number.

    python scripts/bench/fixed_costs.py [--repeats 5] [--cells 8]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import tiny_sweep as tiny  # noqa: E402

BARE = """
import hydra
from omegaconf import DictConfig

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def app(config: DictConfig) -> None: ...

app()
"""


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=folder,
        env=tiny.environment(XDG_RUNTIME_DIR=str(folder)),
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tiny.prepare(folder)
        (folder / "bare.py").write_text(BARE)
        both: dict[str, list[float]] = {"pqbench": [], "bare": []}
        for _ in range(args.repeats):  # in turns, so that drift of the machine cancels
            both["bare"].append(seconds([sys.executable, "bare.py", "--help"], folder))
            help_ = [sys.executable, "-m", "pqbench", "--help"]
            both["pqbench"].append(seconds(help_, folder))
        ours, bare = statistics.median(both["pqbench"]), statistics.median(both["bare"])
        print(f"--help: {ours:.2f} s, a bare Hydra app {bare:.2f} s: {ours / bare:.2f} times")
        print(f"first stage after {first_stage(folder):.2f} s")
        seeds = ",".join(str(n) for n in range(args.cells))
        sweep = tiny.command(f"seed={seeds}", "compress=none", "backend=torch", "-m")
        one = tiny.command("seed=0", "compress=none", "backend=torch", "-m")
        seconds(sweep, folder)
        times = {"all": seconds(sweep, folder), "one": seconds(one, folder)}
        each = (times["all"] - times["one"]) / (args.cells - 1)
        print(
            f"everything found: {times['one']:.1f} s for one experiment, "
            f"{times['all']:.1f} s for {args.cells}: {each:.2f} s for each more"
        )


if __name__ == "__main__":
    main()
