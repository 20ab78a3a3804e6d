"""Two or more sessions of one model beside each other, layer by layer.

A *layer* is what no session splits: operators of the first session's file that some session fuses
are one row. Which of them a kernel computes, and which layer a conversion (quantizing,
dequantizing, another layout) is charged to, says :mod:`pqbench.report.layer_assignment`. Sessions
are started several times and profiled in turns; a difference is the mean over the starts, with
Student's t and Holm's correction over the layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pqbench.core.backend import KernelProfile, Operator
from pqbench.core.statistics import ALPHA, Normal, holm, mean_of
from pqbench.report.estimate import Estimate
from pqbench.report.layer_assignment import Assigned, assign, is_product

BETWEEN = "between the kernels"
TOLERANCE = 0.05  # of the sessions' difference, that layers may fail to account for
_NUMBERED = re.compile(r"^[A-Z]\w*_\d+$")  # a constant that OpenVINO made
_NONE = ""  # for kernels that are charged to no operator


@dataclass(frozen=True)
class Layer:
    """A row.

    Attributes:
        name: Of the weights of its first product, or its first operator.
        operators: Names of the operators of the first session's file that are in it.
        kinds: Kernel types in each session, most time first.
        ms: Milliseconds per call in each session, its conversions included.
        conversions_ms: Of these, of its conversions.
        change: Milliseconds of the last session less those of the first.
        p: Of no change, after Holm's correction over the layers.
    """

    name: str
    operators: tuple[str, ...]
    kinds: tuple[str, ...]
    ms: tuple[Estimate, ...]
    conversions_ms: tuple[float, ...]
    change: Estimate
    p: float

    @property
    def shown(self) -> bool:
        """Whether it is shown to have changed."""
        return self.p < ALPHA and not self.change.low <= 0 <= self.change.high


@dataclass(frozen=True)
class Share:
    """One operator of the first session's file.

    Attributes:
        name: The node's name.
        type: Its type.
        layer: The row that it is in.
        ms: Of the kernels that are charged to it in each session; None where it has none.
        within: Where it has none: the operator that it is fused with, in each session.
    """

    name: str
    type: str
    layer: str
    ms: tuple[float | None, ...]
    within: tuple[str, ...]


@dataclass(frozen=True)
class LayerTable:
    """What the profiles say.

    Attributes:
        sessions: Names of the sessions.
        layers: In order of execution; the last is what lies between the kernels.
        timed_ms: Median of a call in each session while nothing was profiled.
        timed_change: Of the last session against the first, in ms.
        total_change: The layers' changes together, in ms.
        shares: Every operator of the first session's file, in its order.
    """

    sessions: tuple[str, ...]
    layers: tuple[Layer, ...]
    timed_ms: tuple[Estimate, ...]
    timed_change: Estimate
    total_change: Estimate
    shares: tuple[Share, ...] = ()

    @property
    def unaccounted(self) -> float:
        """What the layers fail to account for, as a share of the sessions' difference."""
        off = abs(self.total_change.value - self.timed_change.value)
        return off / max(abs(self.timed_change.value), 1e-9)

    @property
    def accounts(self) -> bool:
        """Whether the layers account for the sessions' difference, within ``TOLERANCE``."""
        return self.unaccounted <= TOLERANCE

    @property
    def differs(self) -> bool:
        """Whether the sessions are shown to take different times."""
        return not self.timed_change.low <= 0 <= self.timed_change.high

    def largest(self) -> list[Layer]:
        """Layers by how much they changed, largest first."""
        return sorted(self.layers, key=lambda layer: -abs(layer.change.value))


def mean_profile(profiles: Sequence[KernelProfile]) -> KernelProfile:
    """One start's profiles as one; kernels that a later one names anew are those of the last."""
    last = profiles[-1]
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for profile in profiles:
        for kernel in profile.kernels:
            taken[kernel.name, kernel.kind].append(kernel.ms)
    means = {key: sum(ms) / len(ms) for key, ms in taken.items()}
    kernels = tuple(replace(k, ms=means[k.name, k.kind]) for k in last.kernels)
    return replace(last, kernels=kernels, call_ms=sum(p.call_ms for p in profiles) / len(profiles))


@dataclass(frozen=True)
class _Start:
    """One session in one start."""

    profile: KernelProfile
    assigned: Sequence[Assigned]

    def ms(self, conversions: bool | None = None) -> dict[str, float]:
        """By the operator that is charged, of all kernels or of conversions alone."""
        found: dict[str, float] = defaultdict(float)
        for kernel, one in zip(self.profile.kernels, self.assigned, strict=True):
            if conversions is None or one.converts == conversions:
                found[one.charged] += kernel.ms
        return found

    def kinds(self, names: Sequence[str]) -> str:
        """Types of the kernels charged to some operators, most time first."""
        pairs = zip(self.profile.kernels, self.assigned, strict=True)
        own = [kernel for kernel, one in pairs if one.charged in names and not one.converts]
        return ", ".join(dict.fromkeys(k.kind for k in sorted(own, key=lambda k: -k.ms)))


def layer_table(
    names: Sequence[str],
    rounds: Sequence[Sequence[KernelProfile]],
    timed: Sequence[Sequence[float]],
) -> LayerTable:
    """Join the sessions' kernels to layers.

    Args:
        names: Of the sessions, two at least.
        rounds: Profiles of each session, one per start, taken in turns; two at least.
        timed: Medians of a call in ms of each session, of the same starts, without the profiler.
    """
    operators = rounds[0][0].operators
    starts = [
        [_Start(profile, assign(operators, profile.kernels)) for profile in profiles]
        for profiles in rounds
    ]
    groups = _groups(operators, starts)
    drafts = []
    for members in groups:
        values = [[_sum(start.ms(), members) for start in side] for side in starts]
        if not any(ms for side in values for ms in side):
            continue  # never executed
        converted = tuple(
            sum(_sum(start.ms(conversions=True), members) for start in side) / len(side)
            for side in starts
        )
        kinds = tuple(side[-1].kinds(members) for side in starts)
        drafts.append((_name(operators, members), tuple(members), kinds, values, converted))
    between = [
        [p.call_ms - sum(kernel.ms for kernel in p.kernels) for p in profiles]
        for profiles in rounds
    ]
    drafts.append((BETWEEN, (), ("",) * len(names), between, (0.0,) * len(names)))
    changes = [_difference(values) for _, _, _, values, _ in drafts]
    p_values = holm([change.p_equal() if change else 1.0 for change in changes])
    layers = [
        Layer(name, members, kinds, tuple(map(_mean, values)), converted, _estimate(change), p)
        for (name, members, kinds, values, converted), change, p in zip(
            drafts, changes, p_values, strict=True
        )
    ]
    total = [[profile.call_ms for profile in profiles] for profiles in rounds]
    return LayerTable(
        tuple(names),
        tuple(layers),
        tuple(map(_mean, timed)),
        _estimate(_difference(timed)),
        _estimate(_difference(total)),
        tuple(_shares(operators, starts, layers)),
    )


def _groups(operators: Sequence[Operator], starts: Sequence[Sequence[_Start]]) -> list[list[str]]:
    """Operators by layer: those that some session fuses are one; and what is charged to none."""
    parent = {operator.name: operator.name for operator in operators}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for side in starts:
        for one in side[-1].assigned:
            for other in one.layers[1:]:
                parent[root(other)] = root(one.layers[0])
    found: dict[str, list[str]] = {}
    for operator in operators:
        found.setdefault(root(operator.name), []).append(operator.name)
    return [*found.values(), [_NONE]]


def _sum(ms: Mapping[str, float], members: Sequence[str]) -> float:
    return sum(ms.get(name, 0.0) for name in members)


def _name(operators: Sequence[Operator], members: Sequence[str]) -> str:
    """Its weights' name without the ending, or its first operator's."""
    if members == [_NONE]:
        return "in no layer"
    own = [operator for operator in operators if operator.name in members]
    first = next((o for o in own if is_product(o.type)), own[0])
    named = is_product(first.type) and first.weights and not _NUMBERED.search(first.weights)
    return first.weights.removesuffix(".weight") if named else first.name


def _shares(
    operators: Sequence[Operator],
    starts: Sequence[Sequence[_Start]],
    layers: Sequence[Layer],
) -> list[Share]:
    rows = {name: layer.name for layer in layers for name in layer.operators}
    sums = [[start.ms() for start in side] for side in starts]
    within = [
        {name: one.charged for one in side[-1].assigned for name in one.layers} for side in starts
    ]
    found = []
    for operator in operators:
        name = operator.name
        ms = tuple(
            sum(own.get(name, 0.0) for own in side) / len(side)
            if any(name in own for own in side)
            else None
            for side in sums
        )
        fused = tuple(
            "" if own is not None else side.get(name, "")
            for own, side in zip(ms, within, strict=True)
        )
        found.append(Share(name, operator.type, rows.get(name, ""), ms, fused))
    return found


def _difference(values: Sequence[Sequence[float]]) -> Normal | None:
    """Last less first, round by round."""
    return mean_of([last - first for first, last in zip(values[0], values[-1], strict=True)])


def _mean(values: Sequence[float]) -> Estimate:
    return _estimate(mean_of(values))


def _estimate(normal: Normal | None) -> Estimate:
    assert normal is not None, "two rounds at least"
    return Estimate(normal.value, *normal.interval(), normal.dof)
