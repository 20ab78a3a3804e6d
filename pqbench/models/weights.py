"""Put a checkpoint's weights into a network: which state dict, under which prefix of its names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.core.errors import WeightsError
from pqbench.models.checkpoint_file import Checkpoint, is_averaged, read_checkpoint, some

if TYPE_CHECKING:
    from torch import Tensor, nn

# What DataParallel, Lightning modules, torch.compile and training scripts put before every name.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")
# What a wrapper around a part of a network puts into the middle of names: DataParallel around the
# features, torch.compile or activation checkpoints of a block.
WRAPPED = re.compile(r"(?<=\.)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
AUXILIARY = "aux_classifier."  # heads that segmentation networks have in training alone
COUNTERS = ("num_batches_tracked",)  # absent from old checkpoints, without effect in inference
# Beside the network's own names: what training keeps in its module and inference never uses.
TRAINING_ALONE = re.compile(
    r"^(criterion|loss\w*|\w+_loss|\w*_?(acc|accuracy|metric|metrics|f1|auroc)|n_averaged|"
    r"(train|val|valid|test)_\w+)(\.|$)"
)


@dataclass(frozen=True)
class Matched:
    """The tensors for a network out of a checkpoint.

    Attributes:
        state: Tensors by the network's own names, as far as they agree.
        label: Dotted key of the state dict and prefix in it; empty for the file itself.
        left_out: Names of tensors that belong to something else than the network.
        others: Labels of further sets of weights for the same network, with other values.
        nameless: Keys of lists of tensors that are averaged weights by their name.
        asked: Chosen by ``model.checkpoint_key``.
    """

    state: Mapping[str, Tensor]
    label: str
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    nameless: tuple[str, ...] = ()
    asked: bool = False

    def notes(self, file: str) -> list[str]:
        """What a record must say about the choice."""
        notes = []
        if self.others:
            taken = f"'{self.label}'" if self.label else "the plain state dict"
            notes.append(
                f"{file} holds several sets of weights: {taken} was taken, not "
                f"{', '.join(repr(o) for o in self.others)} (model.checkpoint_key chooses)"
            )
        elif is_averaged(self.label) and not self.asked:
            notes.append(f"{file}: '{self.label}' was taken, averaged weights by their name")
        if self.nameless:
            notes.append(
                f"{file} also holds averaged weights without names ({some(self.nameless)}): they "
                "were not taken; copy them into the network and save its state_dict() to measure "
                "them"
            )
        if self.left_out:
            notes.append(
                f"{len(self.left_out)} tensors of {file} are none of the network's and were left "
                f"out: {some(self.left_out)}"
            )
        return notes


@dataclass(frozen=True)
class _Way:
    """One reading of a state dict: a prefix taken from its names, another put before them."""

    key: str
    strip: str
    add: str
    agreeing: int

    @property
    def label(self) -> str:
        return ".".join(part for part in (self.key, self.strip.rstrip(".")) if part)

    def order(self, position: int) -> tuple[int, bool, int, bool, int]:
        return (
            -self.agreeing,
            is_averaged(self.label),
            position,
            bool(self.add),
            len(self.strip),
        )


def load_file(path: Path | str) -> dict[str, Tensor]:
    """The most likely state dict of a file, without a prefix that all its names share.

    Raises:
        WeightsError: As :func:`pqbench.models.checkpoint_file.read_checkpoint`.
    """
    state = dict(next(iter(read_checkpoint(path).states.values())))
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def unwrapped(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict without what wrappers of the network's parts put into its names.

    As given where more of its names agree with the network's that way.
    """
    if not any(WRAPPED.search(n) for n in state):
        return state
    shapes = {n: tuple(v.shape) for n, v in network.state_dict().items()}
    clean = {WRAPPED.sub("", name): value for name, value in state.items()}

    def agreeing(names: Mapping[str, Tensor]) -> int:
        return max(_prefixes(names, shapes).values(), default=0)

    return clean if agreeing(clean) > agreeing(state) else state


def _prefixes(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> Counter[str]:
    """How many names agree with the network's once each possible prefix is taken off.

    A name whose tensor has the network's shape counts twice.
    """
    found: Counter[str] = Counter()
    for name, tensor in state.items():
        start = 0
        while True:
            rest = name[start:]
            if rest in shapes:
                found[name[:start]] += 2 if tuple(tensor.shape) == shapes[rest] else 1
            dot = name.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return found


def _added(names: Sequence[str]) -> Iterator[str]:
    """Prefixes that all of the network's own names share, or that wrappers use."""
    yield ""
    shared = ""
    while True:
        first = {name[len(shared) :].partition(".")[0] for name in names}
        if len(first) != 1 or any("." not in name[len(shared) :] for name in names):
            break
        shared += f"{first.pop()}."
        yield shared
    yield from PREFIXES


def _ways(network: nn.Module, states: Mapping[str, Mapping[str, Tensor]]) -> list[_Way]:
    """All readings that agree with the network anywhere, the best first."""
    shapes = {n: tuple(v.shape) for n, v in network.state_dict().items()}
    ways: list[tuple[tuple[int, bool, int, bool, int], _Way]] = []
    for position, (key, state) in enumerate(states.items()):
        for add in dict.fromkeys(_added(list(shapes))):
            own = {n.removeprefix(add): s for n, s in shapes.items() if n.startswith(add)}
            for strip, count in _prefixes(state, own).items():
                way = _Way(key, strip, add, count)
                ways.append((way.order(position), way))
    return [way for _, way in sorted(ways, key=lambda item: item[0])]


def _renamed(state: Mapping[str, Tensor], way: _Way) -> dict[str, Tensor]:
    return {
        f"{way.add}{name.removeprefix(way.strip)}": value
        for name, value in state.items()
        if name.startswith(way.strip)
    }


def match(network: nn.Module, checkpoint: Checkpoint, key: str | None = None) -> Matched:
    """The state dict and prefix of a checkpoint that agree best with a network.

    Args:
        network: Whose names and shapes are wanted.
        checkpoint: What a file holds.
        key: ``model.checkpoint_key``: takes only the state dict, or prefix in it, of that name.

    Raises:
        WeightsError: Nothing is called ``key``.
    """
    file = checkpoint.path.name
    states = {k: unwrapped(network, state) for k, state in checkpoint.states.items()}
    ways = _ways(network, states)
    if key:
        ways = [way for way in ways if key in (way.label, way.key, way.strip.rstrip("."))]
        if not ways:
            labels = dict.fromkeys(way.label for way in _ways(network, states)[:8])
            known = ", ".join(label for label in [*labels, *states] if label) or "none by name"
            raise WeightsError(
                f"{file} holds no weights for this network called '{key}'",
                hint=f"model.checkpoint_key may be one of: {known}",
            )
    if not ways:
        return Matched(dict(next(iter(states.values()))), next(iter(states)))
    best = ways[0]
    state = _renamed(states[best.key], best)
    own = set(network.state_dict())
    left = [n for n in states[best.key] if best.strip and not n.startswith(best.strip)]
    if not best.strip:
        mine = {name.partition(".")[0] for name in own}
        left = [n for n in state if TRAINING_ALONE.match(n) and n.partition(".")[0] not in mine]
        state = {n: v for n, v in state.items() if n not in left}
    others = [
        way.label
        for way in ways[1:]
        if not key
        and way.add == best.add
        and way.agreeing >= 0.9 * best.agreeing
        and _differs(state, _renamed(states[way.key], way), own)
    ]
    shown = [n for n in left if not any(n.startswith(f"{_strip_of(o)}.") for o in others)]
    names = tuple(dict.fromkeys(others))
    return Matched(state, best.label, tuple(shown), names, checkpoint.nameless, bool(key))


def _strip_of(label: str) -> str:
    return label.partition(".")[2] or label


def _differs(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: set[str]) -> bool:
    both = names & a.keys() & b.keys()
    return any(
        a[n].shape != b[n].shape or not bool((a[n] == b[n]).all())
        for n in both
        if not n.endswith(COUNTERS)
    )


def match_names(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the prefix with which its names agree best with the network's."""
    ways = _ways(network, {"": state})
    if not ways:
        return dict(state)
    if not ways[0].strip and not ways[0].add:
        return dict(state)
    return _renamed(state, ways[0])


def fits(network: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has all of a network's tensors, in the network's shapes."""
    return all(
        name in state and state[name].shape == value.shape
        for name, value in network.state_dict().items()
        if not name.endswith(COUNTERS)
    )


def apply(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str = "the weights",
    without: str | None = None,
) -> None:
    """Copy a state dict into a network, in the network's own precision.

    Args:
        network: Changed in place; left unchanged where the state does not fit.
        state: Tensors by name.
        source: What the weights are, for the message.
        without: Dotted name of a layer that may be missing: the head, where the weights are an
            encoder's alone. It stays as it is.

    Raises:
        WeightsError: Names are missing, left over, or have another shape; all in one message, the
            first three of each kind.
    """
    state = match_names(network, unwrapped(network, state))
    own = network.state_dict()
    missing = [n for n in own if n not in state and not n.endswith(COUNTERS)]
    if without is not None:
        missing = [n for n in missing if not n.startswith(f"{without}.")]
    unexpected = [
        n for n in state if n not in own and not n.endswith(COUNTERS) and AUXILIARY not in n
    ]
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
    problems = [f"{len(found)} {kind}: {some(found)}" for kind, found in kinds if found]
    if problems:
        raise WeightsError(
            f"{source} do not fit {type(network).__name__}: {'; '.join(problems)}",
            hint="check model.network and model.head against the weights",
        )
    network.load_state_dict({n: v for n, v in state.items() if n in own}, strict=False)
