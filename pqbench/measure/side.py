"""What is timed in turns: the contract of pairing with the processes that hold a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pqbench.measure.latency import Block


class Side(ABC):
    """One side of a pair: something whose calls are timed in blocks."""

    @abstractmethod
    def block(
        self, batch_size: int, seconds: float, min_calls: int, max_calls: int, lead_s: float = 0.0
    ) -> Block:
        """Time calls back to back.

        Args:
            batch_size: Samples per call.
            seconds: Time that the block takes at least, in s.
            min_calls: Calls that it has at least.
            max_calls: Calls that it has at most.
            lead_s: Time of calls before the first that counts, in s.
        """

    def cpu_s(self) -> float | None:
        """CPU time of its process so far, in s; None where it cannot be seen."""
        return None
