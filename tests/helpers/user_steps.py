"""A user's own step, named by ``_target_`` from a user's own configuration folder."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar

import strays

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_like


class Round(Step):
    """Rounds all weights to a grid: the smallest step there can be."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def __init__(self, digits: int = 3) -> None:
        self.digits = digits

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        network = load_network(artifact)
        held: list[bytearray] = []
        while os.environ.get("FAULT") == "memory":  # scripts/bench/faults/faults.py
            held.append(bytearray(2**26))
        _misbehave(os.environ.get("FAULT", ""))
        for parameter in network.parameters():
            parameter.data = parameter.data.round(decimals=self.digits)
        return save_like(network, artifact, workdir, LineageEntry("round", 0.0))


def _misbehave(fault: str) -> None:
    """Faults of a step that scripts/bench/faults/faults.py asks for."""
    if fault == "chatter":
        for number in range(60):
            print(("x" * 1023 + "\n") * 1024, end="", flush=True)
            time.sleep(0.6 if number % 10 == 9 else 0)
    if fault == "strays":
        for kind in strays.KINDS:
            strays.start(kind)
        (Path("outputs") / "strays").touch()
        time.sleep(3)


class Crash(Step):
    """Dies as native code does."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("not reached")


class Sleep(Step):
    """Takes longer than anybody waits."""

    kind: ClassVar[Kind] = "prune"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        time.sleep(600)
        raise AssertionError("not reached")


def tiny_network(num_classes: int = 10, width: int = 8) -> Any:
    """A network that builds, exports and runs in next to no time."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )
