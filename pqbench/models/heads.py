"""The last layer: cut a 1000-way head to a data set's classes, or put a new one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pqbench.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

NEW_HEAD_STD = 0.01
IMAGENET = 1000
Head = Literal["kept", "sliced", "new"]


@dataclass(frozen=True)
class FittedHead:
    """What became of a head.

    Attributes:
        head: ``kept``, ``sliced`` to (or put into the order of) the data set's classes, or ``new``.
        columns: Which of the network's columns are the data set's classes, in their order; None:
            all, as they are.
        binary: Whether one output stands for two classes.
        notes: What a record must say.
    """

    head: Head
    columns: tuple[int, ...] | None = None
    binary: bool = False
    notes: tuple[str, ...] = ()


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum()) or name


def fit_columns(
    rows: int | None,
    classes: Sequence[str],
    names: Sequence[str] | None,
    imagenet_indices: Sequence[int] | None,
    source: str,
) -> FittedHead | None:
    """Which outputs of trained weights are the data set's classes.

    Args:
        rows: Outputs that the weights have; None if that is not known.
        classes: The data set's classes.
        names: The classes that the weights' file names, in the order of its outputs.
        imagenet_indices: The classes' places in a 1000-way ImageNet output.
        source: What the weights are, for notes.

    Returns:
        None if a new head is needed.
    """
    own = {_plain(name): i for i, name in enumerate(names or ())}
    wanted = [_plain(name) for name in classes]
    known = len(own) == len(names or ()) and len(set(wanted)) == len(wanted)
    named = known and bool(names) and all(name in own for name in wanted)
    order = tuple(own[name] for name in wanted) if named else None
    if rows == 1 and len(classes) == 2:
        turned = order == (1, 0)
        note = (f"{source} names its classes in another order: {', '.join(names or ())}",)
        return FittedHead("kept", (1, 0) if turned else None, True, note if turned else ())
    if order is not None and names is not None and rows == len(names):
        if order == tuple(range(rows)):
            return FittedHead("kept")
        kept = f"{len(classes)} of its {rows} classes were taken by their names"
        note = (
            f"{source} names its classes in another order than the data set: {kept}"
            if rows == len(classes)
            else f"{source} knows {rows} classes: {kept}",
        )
        return FittedHead("sliced", order, notes=note)
    if rows == len(classes):
        odd = names is not None and rows == len(names) and not named
        shown = ", ".join((names or ())[:3])
        note = (
            f"{source} calls its classes otherwise ({shown}, ...): taken in the data set's order",
        )
        return FittedHead("kept", notes=note if odd else ())
    if imagenet_indices is not None and rows == IMAGENET:
        return FittedHead("sliced", tuple(imagenet_indices))
    return None


def replaceable(network: nn.Module, head: str) -> bool:
    """Whether the head is a layer that can be cut, or be put anew."""
    try:
        get_head(network, head)
    except ConfigError:
        return False
    return True


def get_head(network: nn.Module, head: str) -> nn.Linear | nn.Conv2d:
    """The layer called ``head``: Linear, or a 1 x 1 convolution as in SqueezeNet.

    Raises:
        ConfigError: There is no such layer, or it is of another kind.
    """
    from torch import nn

    modules = dict(network.named_modules())
    layer = modules.get(head)
    if isinstance(layer, nn.Linear):
        return layer
    if isinstance(layer, nn.Conv2d) and tuple(layer.kernel_size) == (1, 1) and layer.groups == 1:
        return layer
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    what = "does not exist" if layer is None else f"is a {type(layer).__name__}"
    raise ConfigError(
        f"model.head={head} {what} in {type(network).__name__}",
        hint=f"name the layer that gives the class scores; Linear layers: {', '.join(linear[-3:])}",
    )


def head_size(network: nn.Module, head: str) -> int:
    """Number of classes that the head scores."""
    return int(get_head(network, head).weight.shape[0])


def _replace(network: nn.Module, head: str, classes: int) -> nn.Linear | nn.Conv2d:
    import torch
    from torch import nn

    old = get_head(network, head)
    bias = old.bias is not None
    with torch.random.fork_rng(
        devices=[]
    ):  # the layer's own random draw must not move the global one
        new: nn.Linear | nn.Conv2d = (
            nn.Linear(old.in_features, classes, bias=bias)
            if isinstance(old, nn.Linear)
            else nn.Conv2d(old.in_channels, classes, 1, bias=bias)
        )
    network.set_submodule(head, new)
    return new.train(old.training)


def slice_head(network: nn.Module, head: str, indices: Sequence[int]) -> None:
    """Keep only the head's rows for a data set's classes; the scores kept are unchanged.

    Args:
        network: Changed in place.
        head: Dotted name of the last layer.
        indices: The rows to keep, one per class, in the data set's order.

    Raises:
        ConfigError: There is no such layer, or an index lies outside it.
    """
    import torch

    old = get_head(network, head)
    rows = int(old.weight.shape[0])
    outside = [index for index in indices if not 0 <= index < rows]
    if outside:
        raise ConfigError(f"class index {outside[0]} lies outside the {rows} outputs of {head}")
    new = _replace(network, head, len(indices))
    chosen = torch.tensor(list(indices))
    with torch.no_grad():
        new.weight.copy_(old.weight[chosen])
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias[chosen])


def new_head(network: nn.Module, head: str, classes: int, seed: int) -> None:
    """Put a new head in place: weights normal with standard deviation 0.01, bias zero.

    Args:
        network: Changed in place.
        head: Dotted name of the last layer.
        classes: Number of classes.
        seed: Seeds the draw.

    Raises:
        ConfigError: There is no such layer.
    """
    import torch
    from torch import nn

    new = _replace(network, head, classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(new.weight, std=NEW_HEAD_STD, generator=generator)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
