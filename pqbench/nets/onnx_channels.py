"""Which channels of an ONNX graph must be removed together, and where each of them is stored.

A channel that a convolution makes runs on through activations, pools and additions until another
layer reads it. All tensors on that way lose it together: DepGraph's groups (Fang et al. 2023,
https://arxiv.org/abs/2301.12900), here on the graph itself, by one rule for each operator. What no
rule knows keeps its channels, and so do the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segment:
    """Consecutive places of an axis: the channels of a group, each ``repeat`` places long."""

    group: int
    repeat: int = 1


Layout = tuple[Segment, ...] | None  # None: not known, or not to be changed


@dataclass(frozen=True)
class Slot:
    """An axis of a constant that holds channels.

    Attributes:
        tensor: Name of the constant.
        axis: Which axis.
        layout: What lies along it.
        makes: Whether the tensor is the weight of a layer that makes these channels.
    """

    tensor: str
    axis: int
    layout: tuple[Segment, ...]
    makes: bool = False


@dataclass
class Channels:
    """The groups of a graph.

    Attributes:
        sizes: Channels of each group.
        slots: Where channels are stored.
        layouts: The channel axis (axis 1) of each value.
        depthwise: Convolutions with as many groups as channels.
        reshapes: Names of the nodes whose target shape has a number of channels in it.
        fixed: Groups that keep all of their channels.
    """

    sizes: list[int] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    layouts: dict[str, Layout] = field(default_factory=dict)
    depthwise: list[str] = field(default_factory=list)
    reshapes: dict[str, list[int]] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)
    _parents: list[int] = field(default_factory=list)

    def root(self, group: int) -> int:
        """The group that stands for all that were joined."""
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def free(self) -> list[int]:
        """The groups that may lose channels, in the graph's order."""
        fixed = {self.root(group) for group in self.fixed}
        made = {self.root(s.group) for slot in self.slots if slot.makes for s in slot.layout}
        roots = dict.fromkeys(self.root(group) for group in range(len(self.sizes)))
        return [group for group in roots if group in made and group not in fixed]

    def new(self, size: int) -> tuple[Segment, ...]:
        """A group of its own."""
        self.sizes.append(size)
        self._parents.append(len(self._parents))
        return (Segment(len(self.sizes) - 1),)

    def fix(self, layout: Layout) -> None:
        """Keep all channels of these."""
        self.fixed.update(segment.group for segment in layout or ())

    def length(self, layout: tuple[Segment, ...]) -> int:
        """Places of an axis."""
        return sum(self.sizes[self.root(s.group)] * s.repeat for s in layout)

    def join(self, one: Layout, other: Layout) -> Layout:
        """Channels of both belong together, place by place."""
        if one is None or other is None or len(one) != len(other):
            self.fix(one)
            self.fix(other)
            return None if one is None or other is None else one
        for a, b in zip(one, other, strict=True):
            first, second = self.root(a.group), self.root(b.group)
            if a.repeat != b.repeat or self.sizes[first] != self.sizes[second]:
                self.fix(one)
                self.fix(other)
                return one
            self._parents[max(first, second)] = min(first, second)
        return one

    def places(
        self, layout: tuple[Segment, ...], kept: Mapping[int, npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        """The places of an axis that stay, ascending.

        Args:
            layout: Of the axis.
            kept: Channels that stay, by root group; a group that is not named keeps all.
        """
        found, start = [], 0
        for segment in layout:
            root = self.root(segment.group)
            size = self.sizes[root]
            channels = kept.get(root, np.arange(size))
            inner = np.arange(segment.repeat)
            found.append((start + channels[:, None] * segment.repeat + inner).ravel())
            start += size * segment.repeat
        return np.concatenate(found)


def importance(
    channels: Channels, group: int, weights: Mapping[str, npt.NDArray[np.float32]]
) -> npt.NDArray[np.float64]:
    """How much each channel of a group weighs, as a share of the group's mean.

    The L2 norm of all weights that make it, over every layer that does (group norm, DepGraph).
    """
    total = np.zeros(channels.sizes[group])
    for slot in channels.slots:
        if not slot.makes or channels.root(slot.layout[0].group) != group:
            continue
        weight = np.moveaxis(weights[slot.tensor].astype(np.float64), slot.axis, 0)
        total += (weight.reshape(len(weight), -1) ** 2).sum(axis=1)
    norm = np.sqrt(total)
    mean = float(norm.mean())
    return norm / mean if mean else norm


def rounded(channels: int, wanted: float, multiple: int) -> int:
    """How many of some channels stay: the nearest multiple, at least one and at most all."""
    if channels <= multiple:
        return channels
    return int(min(channels, max(multiple, multiple * round(wanted / multiple))))


def choose(scores: Sequence[npt.NDArray[np.float64]], ratio: float, multiple: int, most: float,
           together: bool) -> list[npt.NDArray[np.int64]]:  # fmt: skip
    """The channels that stay in each group, ascending.

    Args:
        scores: Importance of each channel, by group.
        ratio: Share of all channels to remove, in (0, 1).
        multiple: The number that stays is a multiple of this.
        most: Largest share that a group may lose.
        together: Rank the channels of all groups together, or take the same share of each.
    """
    everything = np.sort(np.concatenate(scores))
    limit = everything[min(len(everything) - 1, round(ratio * len(everything)))]
    kept = []
    for score in scores:
        stay = float((score >= limit).sum()) if together else (1 - ratio) * len(score)
        count = rounded(len(score), max(stay, (1 - most) * len(score)), multiple)
        kept.append(np.sort(np.argsort(-score, kind="stable")[:count]))
    return kept
