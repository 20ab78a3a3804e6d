"""What measuring one cell gave, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from pqbench.core.record import Cold, Energy, Latency, Memory, PlacementInfo, Profile, Speedup

# An INT8 model below this speedup is profiled: its user will ask why.
_FAST_ENOUGH = 1.1
_LOW_SHARE = 0.9
# What nobody knows of a candidate that was not weighed.
_OF_THE_WEIGHED = tuple(
    f"{name}.{key}"
    for name, part in (("cold", Cold()), ("memory", Memory()))
    for key, value in vars(part).items()
    if value is None
)


@dataclass
class CellResult:
    """What was measured, as the record wants it.

    Attributes:
        latency: Of the candidate, by batch size.
        speedup: Over the baseline, by batch size; empty without one.
        cold: Cold times of the candidate.
        memory: Of the candidate's process.
        energy: Of the candidate at the largest batch size.
        placement: Where the candidate ran.
        profile: Where the time goes, if asked for or if INT8 is not faster.
        logits: File with the first output for every sample, relative to the folder; or None.
        clean_logits: The same for the second split, where there is one.
        files: Files written, relative to the folder, by what they hold.
        device: ``cpu`` or ``cuda:<index>``.
        load_average: Load of the machine at the start and at the end of timing.
        notes: What a reader must know.
        reasons: Why a field is null, by its path in the record.
    """

    latency: list[Latency]
    speedup: list[Speedup]
    cold: Cold
    memory: Memory
    energy: Energy
    placement: PlacementInfo
    device: str
    profile: Profile | None = None
    logits: str | None = None
    clean_logits: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    load_average: dict[str, list[float] | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def note_not_weighed(self) -> None:
        """Give the reason of every null that weighing the candidate would have filled."""
        self.reasons |= dict.fromkeys(_OF_THE_WEIGHED, "protocol.weigh=false")

    def note_placement(self, threads: int) -> None:
        """Note what a reader must know of where the candidate ran, and why a share is unknown.

        Args:
            threads: Threads that were asked for.
        """
        placement = self.placement
        if placement.threads is not None and placement.threads != threads:
            self.notes.append(
                f"the runtime uses {placement.threads} threads, {threads} were asked for"
            )
        share = placement.int8_share
        if share is not None and 0 < share < _LOW_SHARE:
            self.notes.append(
                f"INT8 in part: {placement.integer} of {placement.quantizable} quantizable "
                f"operators ({share:.0%}) run as integer kernels"
            )
        if share is None:
            self.reasons["placement.int8_share"] = (
                "the runtime does not tell which kernels are integer"
                if placement.integer is None
                else "the model has no quantizable operator"
            )
        if placement.int8_macs_share is None:
            self.reasons["placement.int8_macs_share"] = self.reasons.get(
                "placement.int8_share", "the runtime does not tell the work of each operator"
            )

    def int8_not_faster(self) -> bool:
        """Whether integer kernels ran and one batch size did not gain from them."""
        return bool(self.placement.integer) and any(s.ratio < _FAST_ENOUGH for s in self.speedup)
