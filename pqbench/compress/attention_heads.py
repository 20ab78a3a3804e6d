"""Prune the heads of fused attention whole: query, key and value of a head go together.

A dependency graph does not see through ``qkv(x).reshape(B, N, 3, heads, dim)``. Where a module is
of that form, which is tried and not assumed, its least important heads are removed (Michel et al.
2019, "Are Sixteen Heads Really Better than One?"): three blocks of rows of ``qkv`` and one of
columns of the projection after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pqbench.compress.careful import FAILURES, BrokenError, checker, undoing
from pqbench.compress.head_ranking import Attention, Ranking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

HEADS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")


def find_attention(network: nn.Module, example: tuple[Tensor, ...]) -> list[Attention]:
    """The modules of this form whose layout is proved by a run.

    Args:
        network: In eval mode.
        example: One batch.
    """
    from torch import nn

    found = []
    for name, module in network.named_modules():
        key = next((k for k in HEADS if isinstance(getattr(module, k, None), int)), None)
        layers = [m for m in module.children() if isinstance(m, nn.Linear)]
        if key is None or len(layers) != 2 or getattr(module, key) < 2:
            continue
        qkv, out = layers
        width = qkv.out_features // 3
        if qkv.out_features != 3 * out.in_features or width % getattr(module, key):
            continue
        attention = Attention(name, module, qkv, out, key)
        if _layout_is_right(network, example, attention):
            found.append(attention)
    return found


def _layout_is_right(network: nn.Module, example: tuple[Tensor, ...], attention: Attention) -> bool:
    """Whether the first head's values are where they are looked for: they alone feed its columns.

    The first and not the last, which lies at the same place where heads come before q, k and v.
    """
    import torch

    seen: list[Tensor] = []
    hook = attention.out.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    values = attention.rows([0])[2 * attention.dim :]
    try:
        with torch.no_grad(), _zeroed(attention.qkv, values):
            network(*example)
    except FAILURES:
        return False
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].shape[-1] != attention.out.in_features:
        return False
    silent = (seen[0].flatten(0, -2) == 0).all(0)
    return bool(silent[: attention.dim].all()) and not bool(silent[attention.dim :].any())


@contextmanager
def _zeroed(layer: nn.Linear, rows: list[int]) -> Iterator[None]:
    import torch

    weight = layer.weight.detach().clone()
    bias = None if layer.bias is None else layer.bias.detach().clone()
    with torch.no_grad():
        layer.weight[rows] = 0
        if layer.bias is not None:
            layer.bias[rows] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)


def prune_heads(
    network: nn.Module,
    example: tuple[Tensor, ...],
    ranking: Ranking,
    pruner: Any,
    ignored: Collection[str],
) -> dict[str, list[int]]:
    """Remove heads in place; where that breaks the network it is put back as it was.

    First each attention alone. Where none can be cut so, because the width of a head is computed
    from the width of the input, all together with the residual stream between them, each by the
    same number of heads.

    Args:
        network: In eval mode.
        example: One batch.
        ranking: How many heads go, and which.
        pruner: A fresh ``torch_pruning`` pruner of the network.
        ignored: Names of modules that are left alone.

    Returns:
        By attention module: heads before and after.
    """
    free = [
        a
        for a in find_attention(network, example)
        if not any(a.name == n or a.name.startswith(f"{n}.") for n in ignored)
        and not any(n.startswith(f"{a.name}.") for n in ignored)
    ]
    check = checker(network, example)
    cut: dict[str, list[int]] = {}
    kept = ranking.stay(network, free)
    for attention in [a for a in free if a.name in kept]:
        before = attention.heads
        with undoing(pruner, network) as undo:
            try:
                _keep(attention, kept[attention.name])
                check()
            except (*FAILURES, BrokenError):
                undo()
                continue
        cut[attention.name] = [before, attention.heads]
    if cut or not kept or any(n in ignored for n in network._modules):
        return cut
    kept = replace(ranking, together=False).stay(network, free)
    free = [a for a in free if a.name in kept]
    had = {a.name: a.heads for a in free}
    with undoing(pruner, network) as undo:
        try:
            _cut_width(free, kept, pruner)
            check()
        except (*FAILURES, BrokenError):
            undo()
            return {}
    return {a.name: [had[a.name], a.heads] for a in free}


def _cut_width(
    attentions: Sequence[Attention], kept: Mapping[str, Sequence[int]], pruner: Any
) -> None:
    """Cut heads and the residual stream to the same width."""
    import torch_pruning as tp

    first = attentions[0]
    width = first.out.out_features
    if any(
        (a.heads, a.dim, a.qkv.in_features) != (first.heads, first.dim, width) for a in attentions
    ):
        raise BrokenError("attention of several widths")
    if any(len(kept[a.name]) != len(kept[first.name]) for a in attentions):
        raise BrokenError("attention of several ratios")
    less = width - len(kept[first.name]) * first.dim
    fn = tp.prune_linear_out_channels
    whole = pruner.DG.get_pruning_group(first.out, fn, list(range(width)))
    weakest = pruner.estimate_importance(whole).argsort()[:less].tolist()
    pruner.DG.get_pruning_group(first.out, fn, sorted(weakest)).prune()
    for attention in attentions:
        _keep(attention, kept[attention.name])


def _keep(attention: Attention, heads: Sequence[int]) -> None:
    """Cut layers and numbers down to some heads."""
    rows, columns = attention.rows(heads), attention.columns(heads)
    width, dim = attention.heads * attention.dim, attention.dim
    qkv, out = attention.qkv, attention.out
    qkv.weight = _picked(qkv.weight, 0, rows)
    if qkv.bias is not None:
        qkv.bias = _picked(qkv.bias, 0, rows)
    out.weight = _picked(out.weight, 1, columns)
    qkv.out_features, out.in_features = len(rows), len(columns)
    setattr(attention.module, attention.key, len(heads))
    for name, value in list(vars(attention.module).items()):
        # The width of all heads, whatever it is called; the width of the input is another thing.
        if isinstance(value, int) and value == width and name not in ("dim", "embed_dim"):
            setattr(attention.module, name, len(heads) * dim)


def _picked(parameter: Tensor, axis: int, places: list[int]) -> nn.Parameter:
    """Some places of an axis, with their gradients, which criteria read later."""
    import torch
    from torch import nn

    index = torch.tensor(places)
    picked = nn.Parameter(parameter.detach().index_select(axis, index))
    if parameter.grad is not None:
        picked.grad = parameter.grad.index_select(axis, index)
    return picked
