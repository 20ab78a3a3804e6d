"""How an experiment is measured: the keys of ``conf/protocol/*.yaml``, with units and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from pqbench.core.errors import ConfigError


@dataclass
class MeasureProtocol:
    """How an experiment is measured; the defaults are those of ``protocol=default``.

    A *block* is a run of back-to-back calls of one side. A *pair* is one block of the baseline and
    one of the candidate, in balanced order. Where there is no baseline a pair is a single block.

    Attributes:
        name: Name of the protocol.
        batch_sizes: Samples per call, each measured on its own.
        warmup_s: Least time of untimed calls per side and batch size, in s. Warming goes on, up to
            three times as long, until two chunks in a row agree.
        warmup_calls: Least number of untimed calls per side and batch size.
        block_s: Length of a block in s; a call that has begun is always finished, and a block has
            at least 3 calls unless they would take four times as long. Below 0.1 the foreign load
            of a block cannot be told (the kernel counts in steps of 10 ms).
        min_pairs: Pairs that are measured whatever the time.
        max_pairs: Pairs after which measuring ends.
        max_seconds: Time for timed blocks per batch size, both sides and all processes together,
            in s.
        processes: How often both sides are started afresh and timed. With 1 the intervals tell
            how well this one start is known; from 3 on they cover what another start changes.
        target_half_width: A start's blocks end when twice the standard errors of the candidate's
            median and of the speedup, relative and all starts together, are within it.
        unstable_half_width: Above this half-width the figures are called unstable.
        max_foreign_share: Share of the usable CPUs that other processes and the hypervisor may
            take during a block; a block with more is set aside and repeated.
        max_disturbed: Blocks that may be set aside per batch size before measuring gives up.
        quiet_wait_s: Longest time per batch size spent asleep waiting for foreign load to end.
        settle_s: Longest pause before each block, in s, until the spinning threads of the other
            side have gone to sleep.
        pool_mb: Memory for the pool of real inputs that the calls rotate through, in MiB.
        seed: Seeds the order of the blocks, the choice of inputs and the bootstrap.
        score: Score the whole split through the timed session.
        score_limit: Score at most so many of its samples; None takes all. What is made of the
            training split is the same either way.
        weigh: Start the candidate once more, alone in a fresh interpreter, for its memory and cold
            times; without it they are null.
        profile: Always profile. If false, only an INT8 model that is not 1.1 times as fast as its
            baseline is profiled, and none that is not weighed.
        stage_timeout_s: Longest time for one answer of a session process, in s.
    """

    name: str = "default"
    batch_sizes: list[int] = field(default_factory=lambda: [1, 16, 32, 64])
    warmup_s: float = 0.15
    warmup_calls: int = 2
    block_s: float = 0.15
    min_pairs: int = 24
    max_pairs: int = 200
    max_seconds: float = 10.0
    processes: int = 8
    target_half_width: float = 0.02
    unstable_half_width: float = 0.05
    max_foreign_share: float = 0.2
    max_disturbed: int = 20
    quiet_wait_s: float = 10.0
    settle_s: float = 0.05
    pool_mb: float = 128.0
    seed: int = 0
    score: bool = True
    score_limit: int | None = None
    weigh: bool = True
    profile: bool = False
    stage_timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if not self.batch_sizes or any(int(b) != b or b < 1 for b in self.batch_sizes):
            raise ConfigError(
                f"protocol.batch_sizes is {list(self.batch_sizes)}",
                hint="give at least one whole number of 1 or more, such as [1,16]",
            )
        if len(set(self.batch_sizes)) != len(self.batch_sizes):
            raise ConfigError(f"protocol.batch_sizes repeats a size: {list(self.batch_sizes)}")
        self.batch_sizes = [int(b) for b in self.batch_sizes]
        if self.min_pairs < 1 or self.max_pairs < self.min_pairs:
            raise ConfigError(
                f"protocol.min_pairs is {self.min_pairs} and max_pairs {self.max_pairs}",
                hint="1 <= min_pairs <= max_pairs",
            )
        if self.processes < 1:
            raise ConfigError(f"protocol.processes is {self.processes}; it must be at least 1")
        for name in ("block_s", "max_seconds", "target_half_width", "pool_mb", "stage_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"protocol.{name} is {getattr(self, name)}; it must be above 0")
        if self.score_limit is not None and self.score_limit < 1:
            raise ConfigError(
                f"protocol.score_limit is {self.score_limit}",
                hint="give 1 or more, null for all, or protocol.score=false",
            )
        for name in ("warmup_s", "warmup_calls", "settle_s", "quiet_wait_s", "max_disturbed"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"protocol.{name} is {getattr(self, name)}; it must not be below 0"
                )
        if not 0 < self.max_foreign_share <= 1:
            raise ConfigError(
                f"protocol.max_foreign_share is {self.max_foreign_share}; it is a share, 0 to 1"
            )

    def part(self) -> MeasureProtocol:
        """What each of the ``processes`` is measured with, so that together they are one."""
        if self.processes == 1:
            return self
        return replace(
            self,
            min_pairs=-(-self.min_pairs // self.processes),
            max_pairs=-(-self.max_pairs // self.processes),
            max_seconds=self.max_seconds / self.processes,
            max_disturbed=self.max_disturbed // self.processes,
            quiet_wait_s=self.quiet_wait_s / self.processes,
            target_half_width=self.target_half_width * math.sqrt(self.processes),
        )


def keys() -> tuple[str, ...]:
    """Names of all settings, in order."""
    return tuple(f.name for f in fields(MeasureProtocol))
