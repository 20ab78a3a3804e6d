"""Where and how the model ran, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pqbench.core.record.fields import Part, doc


@dataclass
class PlacementInfo(Part):
    """Where and how the model really ran, read back from the runtime."""

    nodes: dict[str, int] = doc("Graph nodes per device or execution provider")
    precision: str = doc("Floating-point precision in force")
    quantizable: int = doc("Convolutions and matrix products in the executed graph")
    integer: int | None = doc("Of these, run by integer kernels")
    int8_share: float | None = doc("integer / quantizable, 0..1")
    float_reasons: dict[str, int] = doc("Operators left in float, and added conversions")
    kernels: dict[str, int] = doc("Executed kernels by type")
    threads: int | None = doc("Threads of the runtime, read back")
    int8_macs_share: float | None = doc(
        "Share, 0..1, of their multiply-accumulates that integer kernels do", default=None
    )
    details: dict[str, Any] = doc(
        "Of this backend alone: mode, provider options, engine size, warnings of a builder",
        default_factory=dict,
    )


@dataclass
class Profile(Part):
    """Where the time goes, from the runtime's own profiler, in a session of its own."""

    batch_size: int = doc("Samples per call")
    ms: dict[str, float] = doc("ms per call by kernel type, largest first")
    baseline_ms: dict[str, float] = doc("The same of the baseline", default_factory=dict)
    explanation: str = doc("The difference in one sentence", default="")
