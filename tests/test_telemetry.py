"""No library sends anything or leaves a mark in the home folder, in this process or a child."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pqbench.core.telemetry import OFF
from pqbench.workers.child import child_environment

ASKED = """
from pqbench.core.backend import Backend
from pqbench.core.instantiate import make
for kind in ("ort.backend.OrtBackend", "openvino.backend.OpenvinoBackend"):
    node = {"_target_": f"pqbench.backends.{kind}", "name": "x"}
    found = make(node, "backend", Backend).availability()
    assert found.available, found
"""


def test_home_stays_empty(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (*OFF, "XDG_CACHE_HOME")}
    subprocess.run(
        [sys.executable, "-c", ASKED], env={**environment, "HOME": str(tmp_path)}, check=True
    )
    assert not list(tmp_path.rglob("*"))


def test_child_has_it_off() -> None:
    assert child_environment(1).items() >= OFF.items()
