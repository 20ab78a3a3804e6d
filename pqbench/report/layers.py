"""Two or more sessions of one model beside each other, layer by layer.

A *layer* is what no session splits: kernels of different sessions that compute an operator in
common are one row. Conversions (quantizing, dequantizing, another layout) are charged to the layer
that reads what they give, and to the one before them at the end of the model. Sessions are profiled
in turns; a difference is the mean over the rounds, with Student's t and Holm's correction over the
layers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pqbench.core.backend import KernelProfile, KernelTime
from pqbench.core.statistics import ALPHA, Normal, holm, mean_of
from pqbench.report.estimate import Estimate

BETWEEN = "between the kernels"
TOLERANCE = 0.05  # of the sessions' difference, that layers may fail to account for
_NUMBERED = re.compile(r"^[A-Z]\w*_\d+$")  # a constant that OpenVINO made
_FAR = 64  # conversions in a row


@dataclass(frozen=True)
class Layer:
    """A row.

    Attributes:
        name: Of its weights or of its first operator in the first session that has it.
        kinds: Kernel types in each session, most time first.
        ms: Milliseconds per call in each session, its conversions included.
        conversions_ms: Of these, of its conversions.
        change: Milliseconds of the last session less those of the first.
        p: Of no change, after Holm's correction over the layers.
    """

    name: str
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
class LayerTable:
    """What the profiles say.

    Attributes:
        sessions: Names of the sessions.
        layers: In order of execution; the last is what lies between the kernels.
        timed_ms: Median of a call in each session while nothing was profiled.
        timed_change: Of the last session against the first, in ms.
        total_change: The layers' changes together, in ms.
    """

    sessions: tuple[str, ...]
    layers: tuple[Layer, ...]
    timed_ms: tuple[Estimate, ...]
    timed_change: Estimate
    total_change: Estimate

    @property
    def unaccounted(self) -> float:
        """What the layers fail to account for, as a share of the sessions' difference."""
        off = abs(self.total_change.value - self.timed_change.value)
        return off / max(abs(self.timed_change.value), 1e-9)

    @property
    def accounts(self) -> bool:
        """Whether the layers account for the sessions' difference, within ``TOLERANCE``.

        Where both intervals leave more than that open, they must at least overlap.
        """
        if self.unaccounted <= TOLERANCE:
            return True
        half = max(e.high - e.low for e in (self.total_change, self.timed_change)) / 2
        wide = half > TOLERANCE * abs(self.timed_change.value)
        total, timed = self.total_change, self.timed_change
        return wide and total.low <= timed.high and timed.low <= total.high

    def largest(self) -> list[Layer]:
        """Layers by how much they changed, largest first."""
        return sorted(self.layers, key=lambda layer: -abs(layer.change.value))


def layer_table(
    names: Sequence[str],
    rounds: Sequence[Sequence[KernelProfile]],
    timed: Sequence[Sequence[float]],
) -> LayerTable:
    """Join the sessions' kernels to layers.

    Args:
        names: Of the sessions, two at least.
        rounds: Profiles of each session, one per round, taken in turns; two at least.
        timed: Medians of a call in ms of each session, of the same rounds, without the profiler.
    """
    charged = [_charged(profiles[0].kernels) for profiles in rounds]
    rows = _rows(
        [
            [kernel for kernel in profiles[0].kernels if target[kernel.name] == kernel.name]
            for profiles, target in zip(rounds, charged, strict=True)
        ],
        [profiles[0].kernels for profiles in rounds],
    )
    own: list[list[Mapping[str, float]]] = []
    for profiles, target in zip(rounds, charged, strict=True):
        own.append([_by_target(profile.kernels, target) for profile in profiles])
    converted = []
    for profiles, target in zip(rounds, charged, strict=True):
        all_rounds = [k for profile in profiles for k in profile.kernels if k.conversion]
        converted.append(_by_target(all_rounds, target))
    drafts = []
    for members in rows:
        values = [
            [sum(taken.get(kernel.name, 0.0) for kernel in side) for taken in looks]
            for side, looks in zip(members, own, strict=True)
        ]
        if not any(ms for side in values for ms in side):
            continue  # never executed
        drafts.append(
            (
                _name(members),
                tuple(_kinds(side) for side in members),
                values,
                tuple(
                    sum(taken.get(kernel.name, 0.0) for kernel in side) / len(profiles)
                    for side, taken, profiles in zip(members, converted, rounds, strict=True)
                ),
            )
        )
    between = [
        [profile.call_ms - sum(kernel.ms for kernel in profile.kernels) for profile in profiles]
        for profiles in rounds
    ]
    drafts.append((BETWEEN, ("",) * len(names), between, (0.0,) * len(names)))
    changes = [_difference(values) for _, _, values, _ in drafts]
    p_values = holm([change.p_equal() if change else 1.0 for change in changes])
    layers = [
        Layer(name, kinds, tuple(map(_mean, values)), conversions, _estimate(change), p)
        for (name, kinds, values, conversions), change, p in zip(
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
    )


def _charged(kernels: Sequence[KernelTime]) -> dict[str, str]:
    """The kernel that each is charged to: itself, unless it is a conversion."""
    near = _neighbours(kernels)
    return {k.name: near[k.name] if k.conversion else k.name for k in kernels}


def _neighbours(kernels: Sequence[KernelTime]) -> dict[str, str]:
    """Of each kernel the first that reads what it gives, conversions passed over.

    At the end of the model the one before it; itself where there is none.
    """
    known = {kernel.name: kernel for kernel in kernels}
    before: dict[str, list[str]] = defaultdict(list)
    for kernel in kernels:
        for name in kernel.feeds:
            before[name].append(kernel.name)

    def follow(name: str, ways: Callable[[str], Iterable[str]]) -> str | None:
        seen = [name]
        for current in seen:
            if len(seen) > _FAR:
                return None
            for other in ways(current):
                if other in known and not known[other].conversion:
                    return other
                if other in known and other not in seen:
                    seen.append(other)
        return None

    return {
        name: follow(name, lambda n: known[n].feeds) or follow(name, lambda n: before[n]) or name
        for name in known
    }


def _by_target(kernels: Iterable[KernelTime], target: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        found[target[kernel.name]] += kernel.ms
    return found


def _rows(
    sides: Sequence[Sequence[KernelTime]], every: Sequence[Sequence[KernelTime]]
) -> list[list[list[KernelTime]]]:
    """Kernels of each session by layer, in order of execution: those that share an operator.

    What one session alone has, such as the parts of an operator that it takes to pieces, belongs to
    the layer that reads it.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def keys(index: int, kernel: KernelTime) -> tuple[str, ...]:
        return kernel.origins or (f"{index}:{kernel.name}",)

    groups: dict[str, set[int]] = defaultdict(set)
    for index, side in enumerate(sides):
        for kernel in side:
            first, *others = keys(index, kernel)
            for other in others:
                parent[root(other)] = root(first)
    homes = [{k.name: root(keys(index, k)[0]) for k in side} for index, side in enumerate(sides)]
    for index, home in enumerate(homes):
        for place in home.values():
            groups[place].add(index)
    for index, (side, home) in enumerate(zip(sides, homes, strict=True)):
        near = _neighbours(every[index])
        for kernel in side:
            reader = home.get(near[kernel.name])
            if reader is not None and len(groups[home[kernel.name]]) == 1 < len(sides):
                parent[root(home[kernel.name])] = root(reader)
    rows: dict[str, list[list[KernelTime]]] = {}
    for index, side in enumerate(sides):
        for kernel in side:
            place = root(keys(index, kernel)[0])
            rows.setdefault(place, [[] for _ in sides])[index].append(kernel)
    return list(rows.values())


def _name(members: Sequence[Sequence[KernelTime]]) -> str:
    """Its weights' name without the ending, or its first operator's."""
    kernels = [kernel for side in members for kernel in side]
    for kernel in kernels:
        if kernel.weights and not _NUMBERED.search(kernel.weights):
            return kernel.weights.removesuffix(".weight")
    first = kernels[0]
    return first.origins[0] if first.origins else first.name


def _kinds(side: Sequence[KernelTime]) -> str:
    ordered = sorted(side, key=lambda kernel: -kernel.ms)
    return ", ".join(dict.fromkeys(kernel.kind for kernel in ordered))


def _difference(values: Sequence[Sequence[float]]) -> Normal | None:
    """Last less first, round by round."""
    return mean_of([last - first for first, last in zip(values[0], values[-1], strict=True)])


def _mean(values: Sequence[float]) -> Estimate:
    return _estimate(mean_of(values))


def _estimate(normal: Normal | None) -> Estimate:
    assert normal is not None, "two rounds at least"
    return Estimate(normal.value, *normal.interval(), normal.dof)
