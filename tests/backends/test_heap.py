"""What a session frees is kept for its next call, or given back, as the backend says."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pqbench.backends.torch.backend import TorchBackend
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError
from pqbench.machine import heap

glibc = pytest.mark.skipif(not heap.can_keep_freed_memory(), reason="needs glibc")

# The median of some calls: a heap that keeps memory still grows now and then while its free pieces
# settle.
COUNT = """
import resource, statistics
counts = []
for _ in range(25):
    call()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
calls = [after - before for before, after in zip(counts[9:], counts[10:])]
print(round(statistics.median(calls)))
"""

PROBE = (
    """
import json, sys
import numpy as np
from pqbench.backends.torch.backend import TorchBackend
from pqbench.core.artifact import Artifact

artifact = Artifact.load(sys.argv[1])
batch = {s.name: np.zeros((256, *s.shape[1:]), s.dtype) for s in artifact.inputs}
session = TorchBackend(1, keep_memory=json.loads(sys.argv[2])).load(artifact, [256])
print(session.placement().details["keep_memory"])
call = lambda: session.run(batch)
"""
    + COUNT
)


def faults_of(artifact: Artifact, keep: str, **environment: str) -> tuple[int, str]:
    """Page faults of a call in a process of its own, and what its placement says."""
    output = subprocess.run(
        [sys.executable, "-c", PROBE, str(artifact.folder), keep],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout.split()
    return int(output[1]), output[0]


@glibc
def test_torch_session_keeps_its_memory_unless_told_otherwise(torch_artifact: Artifact) -> None:
    given_back, said = faults_of(torch_artifact, "false")
    assert said == "False" and given_back > 100
    for keep in ("null", "true"):
        kept, said = faults_of(torch_artifact, keep)
        assert said == "True" and kept < given_back / 10


@glibc
def test_variables_of_the_docs_give_another_program_the_same(torch_artifact: Artifact) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pytorch_memory.md").read_text(encoding="utf-8")
    [line] = [line for line in page.splitlines() if line.startswith("MALLOC_")]
    variables = dict(word.split("=") for word in line.split() if "=" in word)
    given_back, _ = faults_of(torch_artifact, "false")
    kept, _ = faults_of(torch_artifact, "false", **variables)
    assert kept < given_back / 10


def test_keep_memory_is_refused_where_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="does nothing on cuda:0"):
        TorchBackend(1, device="cuda:0", keep_memory=True)
    assert not TorchBackend(1, device="cuda:0").keep_memory
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not heap.keep_freed_memory()
    assert not TorchBackend(1).keep_memory
    with pytest.raises(ConfigError, match="needs glibc"):
        TorchBackend(1, keep_memory=True)


@glibc
def test_torch_load_fails_if_memory_is_not_kept(
    torch_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pqbench.backends.torch.backend.keep_freed_memory", lambda: False)
    with pytest.raises(PlacementError, match="it refused"):
        TorchBackend(1).load(torch_artifact, [1])
    TorchBackend(1, keep_memory=False).load(torch_artifact, [1]).close()


BUNDLED = (
    """
import importlib.util, json, sys
import numpy as np

spec = importlib.util.spec_from_file_location("run", sys.argv[1])
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
about = {"file": "model.pt2", "runtime": "torch", "inputs": ["x"]}
about["keep_memory"] = json.loads(sys.argv[2])
program = run.load(about, 1, 64)
call = lambda: program({"x": np.zeros((64, 3, 32, 32), np.float32)})
"""
    + COUNT
)


@glibc
def test_bundle_keeps_memory_as_it_was_measured(tmp_path: Path) -> None:
    import torch

    from pqbench.report.bundle import run

    script = tmp_path / "run.py"
    shutil.copyfile(run.__file__, script)
    (tmp_path / "model").mkdir()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 256, 3), torch.nn.ReLU()).eval()
    program = torch.export.export(network, (torch.zeros(64, 3, 32, 32),))
    torch.export.save(program, tmp_path / "model" / "model.pt2")
    faults = {
        keep: int(
            subprocess.run(
                [sys.executable, "-c", BUNDLED, str(script), keep],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for keep in ("false", "true")
    }
    assert faults["false"] > 1000 and faults["true"] < faults["false"] / 10
