"""Are the remedies of what is missing true? From a fresh clone, in an environment without any.

Clones this repository, installs it with nothing but what it requires, asks each runtime for small
devices whether it is there, types the remedy that is given, word by word, asks again, and runs a
tiny model on it. Needs a network: 5 GB, and 7 GB more with ``--with litert``.

    python scripts/bench/faults/bare_environment.py [--folder FOLDER] [--with litert]

With ``--folder`` an environment that is there already is gone on with. Exit code 1: a remedy is
missing, or does not help.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
QUICK = ("ncnn", "mnn", "executorch")
ASK = (
    "import dataclasses, json, pathlib, pqbench.conf;"
    "from pqbench.app.backends_here import backends;"
    "conf = pathlib.Path(list(pqbench.conf.__path__)[0]);"
    "found = {k: dataclasses.asdict(v) for k, v in backends(conf).items()};"
    "print(json.dumps(found))"
)
TINY = (
    *("model=cnn", "dataset=synthetic", "dataset.limit=8", "model.weights=none", "cache=false"),
    *("protocol=quick", "protocol.batch_sizes=[1]", "protocol.max_seconds=0.2", "tracking=none"),
    "protocol.processes=1",
)


def environment(folder: Path) -> dict[str, str]:
    """Variables under which the environment's programs are found first, and nothing of ours."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    path = os.pathsep.join([str(folder / "bin"), inherited.get("PATH", "")])
    return {**inherited, "PATH": path, "XDG_CACHE_HOME": str(folder / "cache")}


def make(folder: Path) -> None:
    """A clone, and an environment with what it requires."""
    clone = folder.with_name(f"{folder.name}-clone")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    venv.create(folder, with_pip=True)
    command = ["pip", "install", "-q", "-c", "constraints.txt", "."]
    subprocess.run(
        [str(folder / "bin" / "python"), "-m", *command],
        check=True,
        cwd=clone,
        env=environment(folder),
    )


def ask(folder: Path) -> dict[str, dict[str, object]]:
    """What pqbench says of each backend there, by name."""
    done = subprocess.run(
        [str(folder / "bin" / "python"), "-c", ASK],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(folder),
    )
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(folder: Path, backend: str) -> str:
    """Status of a tiny model on a backend there, and its error's message."""
    with tempfile.TemporaryDirectory() as outputs:
        command = ["pqbench", *TINY, f"backend={backend}", f"outputs={outputs}"]
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True
        )
        paths = sorted(Path(outputs).glob("runs/*/record.json"))
        if not paths:
            return f"no record: {done.stderr[-300:]}"
        record = json.loads(paths[0].read_text())
        error = record["error"] or {"message": ""}
        return " ".join(f"{record['status']} {error['message']}".split())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of the environment; null: a temporary one")
    parser.add_argument("--with", dest="more", nargs="*", default=[], choices=["litert"])
    given = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.folder or Path(scratch) / "bare").absolute()
        if not (folder / "bin" / "pqbench").exists():
            make(folder)
        for name in (*QUICK, *given.more):
            before = ask(folder)[name]
            before_status = run(folder, name)
            print(f"{name}: {before['reason']}; to do: {before['hint']}", flush=True)
            print(f"  before: {before_status}", flush=True)
            began = time.monotonic()
            fixed = subprocess.run(
                str(before["hint"]), shell=True, cwd=folder, env=environment(folder),
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            took = time.monotonic() - began
            after, status = ask(folder)[name], run(folder, name)
            helped = (
                not before["available"]
                and before_status.startswith("unavailable")
                and fixed.returncode == 0
                and bool(after["available"])
                and status.startswith("ok")
            )
            good = good and helped
            print(f"  after {took:.0f} s: {status}: {'yes' if helped else 'NO'}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
