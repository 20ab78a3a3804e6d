"""Everything that needs an NVIDIA GPU, in one command: its tests, and sweeps with a page.

    python scripts/gpu_check.py [--out gpu_check] [--minutes 8] [--images IMAGENETTE_FOLDER]

Writes ``<out>/gpu_check.md`` with what the machine is, what can run there and why the rest cannot,
the outcome of the tests marked ``gpu``, and a table of every GPU backend that is available; and
``<out>/records.zip`` with the records behind it, from which ``--page`` makes the table again:

    python scripts/gpu_check.py --page RECORDS.zip --out docs/gpu.md

A machine without a network gets a pack: ``--pack FOLDER --images IMAGENETTE_FOLDER --have FILE``
writes parts of at most 50 MB and ``run.sh``; FILE lists, a line each, what ``pip list`` shows
there. Each part of the check has a share of the time and is stopped when that is over.

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
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TESTS_SHARE = 0.3
ENDING_S = 25  # after a first Ctrl-C a sweep writes what it has
# Sweeps: share of the time that is left, and overrides beside the model's name. With three starts a
# cell took 20 to 60 s on an H100; of two an interval tells nothing (+-107 % was seen).
SWEEPS = {
    "efficientnet_lite0": (0.55, ["model.weights=pretrained", "dataset.split=clean"]),
    "resnet18": (1.0, ["model.weights=none", "dataset=synthetic", "dataset.limit=64"]),
}


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
            os.kill(process.pid, signal.SIGINT)
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return None


def outcome(code: int | None, limit_s: float) -> str:
    """How a part of the check ended, in words."""
    return f"stopped after {limit_s:.0f} s" if code is None else f"exit code {code}"


def tail(log: Path, lines: int) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def sweep_command(model: str, backends: Sequence[str], out: Path, images: Path | None) -> list[str]:
    """One model on every GPU backend that can run, FP32 first; FP16 where a file has to be cast."""
    _, overrides = SWEEPS[model]
    if "dataset=synthetic" not in overrides:
        overrides = [*overrides, "dataset=imagenette", f"dataset.root={images}"]
    return [
        *(sys.executable, "-m", "pqbench", f"model={model}", "compress=none,fp16,ort_int8_trt"),
        *(f"backend={','.join(backends)}", "protocol=quick", "protocol.batch_sizes=[1,32]"),
        *("protocol.processes=3", "tracking=none", *overrides),
        *(f"outputs={out / 'outputs'}", f"hydra.sweep.dir={out / f'sweep_{model}'}", "-m"),
    ]


def check(out: Path, minutes: float, images: Path | None, rehearse: bool) -> int:
    """Run every part; the exit code."""
    from gpu_page import keep_records, read_records, table

    from pqbench.app.arguments import config_folder
    from pqbench.app.backends_here import backends
    from pqbench.core.errors import UnavailableError
    from pqbench.machine.cuda_driver import gpu
    from pqbench.machine.describe import describe

    end = time.monotonic() + 60 * minutes
    report = ["# GPU check", ""]
    machine = describe()
    try:
        card = gpu()
        report.append(
            f"{card.name}, compute capability {card.capability}, driver for CUDA {card.driver}; "
            f"commit {machine['git']['commit']}."
        )
    except UnavailableError as error:
        if not rehearse:
            print(f"gpu_check: {error}", file=sys.stderr)
            return 2
        report.append(f"A rehearsal on the CPU; commit {machine['git']['commit']}.")
    out.mkdir(parents=True, exist_ok=True)
    (out / "machine.json").write_text(json.dumps(machine, indent=2), encoding="utf-8")
    found = backends(config_folder())
    kind = "cpu" if rehearse else "cuda"
    usable = [n for n, a in found.items() if a.available and a.device.startswith(kind)]
    report += ["", "| backend | here | versions | why not |", "| --- | --- | --- | --- |"]
    for name, a in found.items():
        versions = ", ".join(f"{k} {v}" for k, v in a.versions.items())
        report.append(f"| {name} | {'yes' if a.available else 'no'} | {versions} | {a.reason} |")
    failed = False

    limit = TESTS_SHARE * (end - time.monotonic())
    log = out / "tests.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-ra", "-p", "no:cacheprovider"]
    code = run([*command, "tests/backends/test_on_gpu.py"], limit, log)
    failed |= code != 0
    report += ["", f"## Tests: {outcome(code, limit)}", "", "```", tail(log, 40), "```"]

    for model, (share, overrides) in SWEEPS.items():
        if images is None and "dataset=synthetic" not in overrides:
            report += ["", f"## {model}: left out, no --images"]
            continue
        limit = share * (end - ENDING_S - time.monotonic())
        log = out / f"sweep_{model}.log"
        code = run(sweep_command(model, usable, out, images), limit, log)
        failed |= code not in (0, None)
        answer = out / f"sweep_{model}" / "table.md"
        text = answer.read_text(encoding="utf-8") if answer.is_file() else None
        report += ["", f"## {model}: {outcome(code, limit)}", ""]
        report.append(text if text is not None else f"```\n{tail(log, 20)}\n```")
    kept = keep_records(out, out / "records.zip")
    if kept:
        report += ["", "## All of them", "", *table(read_records(out / "records.zip"))]
    (out / "gpu_check.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    print(f"gpu_check: {'something failed' if failed else 'all well'}; {out / 'gpu_check.md'}")
    return int(failed)


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    parser.add_argument("--images", type=Path, help="Imagenette's folder, with train/ and val/")
    parser.add_argument("--rehearse", action="store_true", help="the same steps on CPU backends")
    parser.add_argument("--page", type=Path, metavar="ZIP", help="only write --out from records")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="pack for another machine")
    parser.add_argument("--have", type=Path, help="--pack: file of what is installed there")
    parser.add_argument("--without", nargs="*", default=[], help="--pack: packages to leave out")
    parser.add_argument("--part-mb", type=float, default=50, help="--pack: size of a part, MB")
    parser.add_argument("--python", default="3.12", help="--pack: version of Python there")
    arguments = parser.parse_args()
    if arguments.page:
        from gpu_page import write_page

        write_page(arguments.page, arguments.out)
        return 0
    if arguments.pack:
        from gpu_pack import pack

        if arguments.images is None:
            parser.error("--pack needs --images")
        have = arguments.have.read_text(encoding="utf-8").split("\n") if arguments.have else []
        names = [line.split("=")[0].split()[0] for line in have if line.strip()]
        pack(
            arguments.pack,
            arguments.images,
            names,
            arguments.without,
            arguments.python,
            arguments.part_mb,
        )
        return 0
    images = arguments.images.resolve() if arguments.images else None
    return check(arguments.out.resolve(), arguments.minutes, images, arguments.rehearse)


if __name__ == "__main__":
    sys.exit(main())
