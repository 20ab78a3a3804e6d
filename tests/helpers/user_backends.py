"""A backend of a user's own that brings its process down, as a driver or a native library can."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session


class CrashingBackend(Backend):
    loads: ClassVar[tuple[Representation, ...]] = ("torch",)

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def availability(self) -> Availability:
        return Availability(True, "cpu", {})

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> CrashingSession:
        return CrashingSession(self.fault)


class CrashingSession(Session):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def run(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if self.fault == "segfault":
            ctypes.string_at(0)
        if self.fault == "abort":
            os.abort()
        raise MemoryError("no room for 99 GiB")

    def placement(self) -> Placement:
        return Placement({"cpu": 1}, "f32", 0, 0)
