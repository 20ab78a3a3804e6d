"""Stages that leave processes behind, in every way there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIVE = "import time; time.sleep(60)"
KINDS = ("child", "session", "orphan")


def start(kind: str) -> int:
    """A process below this one: a plain child, one with its own session, or one without parent."""
    if kind == "orphan":
        text = (
            "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
            "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
        )
        done = subprocess.run(
            [sys.executable, "-c", text, LIVE], capture_output=True, text=True, check=True
        )
        return int(done.stdout)
    return subprocess.Popen([sys.executable, "-c", LIVE], start_new_session=kind == "session").pid


def leave(workdir: Path, out: str, seconds: float, signal_itself: int = 0) -> dict[str, Any]:
    """Start one of each kind, note who they are, and go on for a while."""
    pids = [os.getpid(), *(start(kind) for kind in KINDS)]
    aside = Path(out).with_suffix(".aside")
    aside.write_text(json.dumps(pids))
    aside.rename(out)
    if signal_itself:
        os.kill(os.getpid(), signal_itself)
    time.sleep(seconds)
    return {}


def chatter(workdir: Path, megabytes: int) -> dict[str, Any]:
    """Print a lot, as a network may."""
    print("the beginning")
    line = "x" * 1023
    for number in range(megabytes):
        for _ in range(1024):
            print(line)
        if number % 4 == 3:
            time.sleep(0.6)
    print("the end", flush=True)
    return {}


def own(out: str, memory_mb: str) -> None:
    """A process that runs the stage and is killed meanwhile."""
    from pqbench.workers.stage import StageRunner
    from pqbench.workers.stage_spec import StageSpec

    folder = Path(out).parent
    limit = float(memory_mb) or None
    spec = StageSpec("leave", "strays:leave", {"out": out, "seconds": 60}, memory_mb=limit)
    StageRunner(None, folder / "work", folder / "logs").run(spec)


if __name__ == "__main__":
    own(*sys.argv[1:])
