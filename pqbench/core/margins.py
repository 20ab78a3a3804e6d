"""The question that an answer is about: what may be lost, what must be gained, how sure."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.core.errors import ConfigError


@dataclass
class Margins:
    """The question, ``claim`` in the configuration; it changes nothing that is measured.

    Attributes:
        max_drop_pt: Points of the task's metric that may be lost, above 0 (for mIoU: points of it).
        min_speedup: Times as fast as the baseline that is asked for, above 0.
        confidence: Of all verdicts of a sweep together, above 0.5 and below 1.
        reference: Name of the backend whose uncompressed model is what runs today; null: PyTorch
            in FP32 where the sweep has it; else, of several runtimes, the one measured first.

    Raises:
        ConfigError: A value is outside its range.
    """

    max_drop_pt: float = 1.0
    min_speedup: float = 1.0
    confidence: float = 0.95
    reference: str | None = None

    def __post_init__(self) -> None:
        for name, good, allowed in (
            ("max_drop_pt", 0 < self.max_drop_pt < 100, "above 0 and below 100"),
            ("min_speedup", self.min_speedup > 0, "above 0"),
            ("confidence", 0.5 < self.confidence < 1, "above 0.5 and below 1"),
        ):
            if not good:
                raise ConfigError(
                    f"claim.{name}={getattr(self, name)} is not possible",
                    hint=f"claim.{name} must be {allowed}",
                )
