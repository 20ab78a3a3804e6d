"""One experiment timed beside what runs today, another experiment, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pqbench.core.record import reading
from pqbench.core.record.accuracy import AgainstBaseline
from pqbench.core.record.fields import Part, doc
from pqbench.core.record.timing import Speedup


@dataclass
class Pairing(Part):
    """A candidate against the reference: what runs today, such as PyTorch in FP32."""

    candidate: str = doc("Fingerprint of the candidate")
    reference: str = doc("Fingerprint of the reference")
    identities: list[str] = doc("Their identities: with others the pairing is of another time")
    speedup: list[Speedup] = doc("The reference's latency over the candidate's, by batch size")
    against: AgainstBaseline | None = doc(
        "Predictions on the same samples, as against a baseline; null where there are none",
        default=None,
    )
    reasons: dict[str, str] = doc("Why a field is null or empty", default_factory=dict)

    @classmethod
    def from_text(cls, text: str | bytes) -> Self:
        """Read what was written as JSON.

        Raises:
            DataError: A field is missing, unknown or of another type.
        """
        return reading.build(cls, text)
