"""Everything that needs an NVIDIA GPU, in one command: its tests, and a small sweep with a report.

    python scripts/gpu_check.py [--out gpu_check] [--minutes 8]

Writes ``<out>/gpu_check.md`` with what the machine is, what can run there and why the rest cannot,
the outcome of the tests marked ``gpu``, and the table of a sweep over every GPU backend that is
available. Each part has a share of the time; a part that takes longer is stopped and said to be.
Exit code 0: all that could run did, and well; 1: something failed; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS_SHARE, SWEEP_SHARE = 0.35, 0.6
FLOAT = "compress=none"
INT8 = "compress=none,ort_int8_trt"


def run(command: list[str], limit_s: float, log: Path) -> int | None:
    """Run a command with its output in a log; None if it was stopped at the limit."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "160"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            return None


def outcome(code: int | None, limit_s: float) -> str:
    return f"stopped after {limit_s:.0f} s" if code is None else f"exit code {code}"


def tail(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from pqbench.app.arguments import config_folder
    from pqbench.app.backends_here import backends
    from pqbench.core.errors import UnavailableError
    from pqbench.machine.cuda_driver import gpu
    from pqbench.machine.describe import describe

    end = time.monotonic() + 60 * arguments.minutes
    try:
        card = gpu()
    except UnavailableError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    machine = describe()
    (out / "machine.json").write_text(json.dumps(machine, indent=2), encoding="utf-8")
    found = backends(config_folder())
    usable = [n for n, a in found.items() if a.available and a.device.startswith("cuda")]
    report = [
        "# GPU check",
        "",
        f"{card.name}, compute capability {card.capability}, driver for CUDA {card.driver}; "
        f"commit {machine['git']['commit']}.",
        "",
        "| backend | here | versions | why not |",
        "| --- | --- | --- | --- |",
    ]
    for name, a in found.items():
        versions = ", ".join(f"{k} {v}" for k, v in a.versions.items())
        report.append(f"| {name} | {'yes' if a.available else 'no'} | {versions} | {a.reason} |")
    failed = False

    limit = TESTS_SHARE * (end - time.monotonic())
    log = out / "tests.log"
    code = run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-ra", "tests"], limit, log)
    failed |= code != 0
    report += ["", f"## Tests: {outcome(code, limit)}", "", "```", tail(log, 25), "```"]

    sweeps = {
        "float": ([n for n in usable if n.startswith("torch")], FLOAT),
        "int8": ([n for n in usable if not n.startswith("torch")], INT8),
    }
    for name, (names, compress) in sweeps.items():
        if not names:
            report += ["", f"## Sweep {name}: no backend for it is available here"]
            continue
        limit = min(SWEEP_SHARE * 60 * arguments.minutes / 2, end - time.monotonic() - 5)
        log, folder = out / f"sweep_{name}.log", out / f"sweep_{name}"
        command = [
            *(sys.executable, "-m", "pqbench", "model=resnet18", compress),
            *(f"backend={','.join(names)}", "protocol=quick", "protocol.batch_sizes=[1,32]"),
            *("dataset.limit=256", "dataset.train_limit=256", "fit.epochs=1", "tracking=none"),
            *(f"outputs={out / 'outputs'}", f"hydra.sweep.dir={folder}", "-m"),
        ]
        code = run(command, limit, log)
        failed |= code != 0
        report += ["", f"## Sweep {name}: {outcome(code, limit)}", ""]
        table = folder / "table.md"
        report += [
            table.read_text(encoding="utf-8") if table.is_file() else f"```\n{tail(log, 20)}\n```"
        ]
    (out / "gpu_check.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    print(f"gpu_check: {'something failed' if failed else 'all well'}; {out / 'gpu_check.md'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
