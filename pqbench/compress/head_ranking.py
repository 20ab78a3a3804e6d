"""Which heads of attention stay: as many as the settings of ``prune`` ask for, by its criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pqbench.compress.criteria import importance

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Attention:
    """A fused attention module.

    Attributes:
        name: Its dotted name.
        module: The module.
        qkv: Its Linear layer that gives queries, keys and values.
        out: The Linear layer that takes what the heads give.
        key: Attribute that holds the number of heads.
    """

    name: str
    module: nn.Module
    qkv: nn.Linear
    out: nn.Linear
    key: str

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return int(getattr(self.module, self.key))

    @property
    def dim(self) -> int:
        """Width of one head."""
        return self.qkv.out_features // 3 // self.heads

    def rows(self, heads: Sequence[int]) -> list[int]:
        """Rows of ``qkv`` of some heads: their queries, then keys, then values."""
        width = self.heads * self.dim
        return [part * width + place for part in range(3) for place in self.columns(heads)]

    def columns(self, heads: Sequence[int]) -> list[int]:
        """Columns of ``out`` of some heads."""
        return [head * self.dim + i for head in heads for i in range(self.dim)]


@dataclass(frozen=True)
class Ranking:
    """How many heads go, and by what they are ranked.

    Attributes:
        ratio: Share of the heads to remove, rounded down; at least one head stays.
        criterion: One of ``criteria.CRITERIA``. By ``bn_scale`` all heads stay: they have none.
        together: Rank the heads of all modules together.
        most: At most this share of the heads of one module goes.
        own: Ratio of single modules by dotted name, instead of ``ratio``.
    """

    ratio: float
    criterion: str = "magnitude_l2"
    together: bool = False
    most: float = 1.0
    own: Mapping[str, float] = field(default_factory=dict)

    def stay(self, network: nn.Module, attentions: Sequence[Attention]) -> dict[str, list[int]]:
        """The heads that stay, in their order, by the name of the module that loses some.

        Args:
            network: Which has the modules.
            attentions: Before any of them is cut.
        """
        found = {a.name: head_scores(a, self.criterion) for a in attentions}
        scores = {name: score for name, score in found.items() if score is not None}
        ranked = [a for a in attentions if a.name in scores]
        if self.together:
            everything = sorted(value for score in scores.values() for value in score)
            less = int(self.ratio * len(everything))
            limit = everything[less - 1] if less else float("-inf")
            gone = {name: sum(v <= limit for v in score) for name, score in scores.items()}
        else:
            gone = {a.name: int(self._ratio(network, a) * a.heads) for a in ranked}
        kept = {}
        for a in ranked:
            less = min(gone[a.name], int(self.most * a.heads), a.heads - 1)
            if less:
                best = sorted(range(a.heads), key=lambda head: -scores[a.name][head])
                kept[a.name] = sorted(best[: a.heads - less])
        return kept

    def _ratio(self, network: nn.Module, attention: Attention) -> float:
        """That of the last name that holds the layer of queries, keys and values."""
        ratio = self.ratio
        for name, own in self.own.items():
            if any(module is attention.qkv for module in network.get_submodule(name).modules()):
                ratio = own
        return ratio


def head_scores(attention: Attention, criterion: str) -> list[float] | None:
    """Importance of each head; None where the criterion says nothing of them.

    Args:
        attention: With the gradients of ``criteria.gather_gradients``, where the criterion reads
            them.
        criterion: One of ``criteria.CRITERIA``. ``magnitude_l2``: the norm of the head's weights
            in, times that of its weights out, as a share of the module's mean. Any other judges a
            head as it does a channel that has all of the head's weights.
    """
    if criterion == "magnitude_l2":
        into, out = _weights(attention, attention.qkv.weight, attention.out.weight)
        norms = into.norm(dim=1) * out.norm(dim=1)
        return [float(norm) for norm in norms / norms.mean().clamp_min(1e-30)]
    import torch
    import torch_pruning as tp
    from torch import nn

    into, out = _weights(attention, attention.qkv.weight, attention.out.weight)
    first = nn.Linear(into.shape[1], attention.heads, bias=False, device="meta")
    second = nn.Linear(attention.heads, out.shape[1], bias=False, device="meta")
    first.weight, second.weight = nn.Parameter(into), nn.Parameter(out.T.contiguous())
    if attention.qkv.weight.grad is not None and attention.out.weight.grad is not None:
        into, out = _weights(attention, attention.qkv.weight.grad, attention.out.weight.grad)
        first.weight.grad, second.weight.grad = into, out.T.contiguous()
    graph = tp.DependencyGraph().build_dependency(
        nn.Sequential(first, second), torch.zeros(1, first.in_features)
    )
    heads = list(range(attention.heads))
    scores = importance(criterion)(
        graph.get_pruning_group(first, tp.prune_linear_out_channels, heads)
    )
    return None if scores is None else [float(score) for score in scores]


def _weights(attention: Attention, into: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """What a head has of two matrices, (heads, weights) each: its rows, and its columns."""
    import torch

    into, out = into.detach(), out.detach()
    rows = [into[attention.rows([head])].flatten() for head in range(attention.heads)]
    columns = [out[:, attention.columns([head])].flatten() for head in range(attention.heads)]
    return torch.stack(rows), torch.stack(columns)
