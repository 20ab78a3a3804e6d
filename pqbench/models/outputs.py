"""Which of a torch network's outputs holds the class scores, and in what form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

Path = tuple[str | int, ...]
NAMES = ("logits", "scores", "class_logits", "cls_logits", "pred_logits", "out", "output")
SUM_TOLERANCE = 1e-3
VIEWS = ("View", "Squeeze", "Unsqueeze", "Reshape", "Slice", "Select", "Alias", "Clone", "Flatten")


def tensors(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """All tensors that a network returned, with the positions and keys that lead to each."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [found for key, part in value.items() for found in tensors(part, (*path, key))]
    if isinstance(value, tuple | list):
        return [found for i, part in enumerate(value) for found in tensors(part, (*path, i))]
    if is_dataclass(value) and not isinstance(value, type):
        return tensors({part.name: getattr(value, part.name) for part in fields(value)}, path)
    return []


def describe(found: Sequence[tuple[Path, Tensor]]) -> str:
    """``0 (2, 64), 1 (2, 10)``: names and shapes."""
    return ", ".join(f"{_name(path) or 'the output'} {tuple(t.shape)}" for path, t in found)


def _name(path: Path) -> str:
    return ".".join(str(step) for step in path)


def outputs_of(network: nn.Module, example: tuple[Tensor, ...]) -> list[tuple[Path, Tensor]]:
    """All outputs of one run, with gradients' history, which tells what made them.

    Raises:
        ConfigError: The network takes another number of channels than it is fed.
        UnsupportedError: It fails on this batch, or returns no tensors.
    """
    import torch

    try:
        with torch.enable_grad():
            value = network(*example)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise failure(network, example, error) from error
    found = tensors(value)
    if not found:
        raise UnsupportedError(
            f"{type(network).__name__} returns {type(value).__name__}, not tensors",
            hint="wrap it in a module whose forward returns the scores",
        )
    return found


def failure(
    network: nn.Module, example: tuple[Tensor, ...], error: Exception
) -> ConfigError | UnsupportedError:
    """Why a network fails on a batch, in one line."""
    from torch import nn

    name, shape = type(network).__name__, tuple(example[0].shape)
    first = next((m for m in network.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    if first is not None and len(shape) == 4 and first.in_channels != shape[1]:
        if (first.in_channels, shape[1]) == (1, 3):
            return ConfigError(
                f"{name} takes images of one channel, model.preprocess gives three",
                hint="for grey images: 'model.preprocess.mean=[0.5]' 'model.preprocess.std=[0.5]' "
                "with the mean and std of your own training",
            )
        if (first.in_channels, shape[1]) == (3, 1):
            return ConfigError(
                f"{name} takes images of three channels, model.preprocess gives one",
                hint="give three values each of model.preprocess.mean and .std",
            )
        return ConfigError(
            f"{name} takes images of {first.in_channels} channels, pqbench feeds {shape[1]}",
            hint="wrap the network so that it takes (n, 3, height, width)",
        )
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in example)
    return UnsupportedError(
        f"{name} fails on a batch of {shapes}: {text}",
        hint="is model.preprocess (or model.tokenizer) what the network was trained with?",
    )


def choose(
    network: nn.Module,
    example: tuple[Tensor, ...],
    head: str,
    classes: int,
    dense: bool,
    wanted: str | None,
) -> tuple[Path, Tensor]:
    """The scored output of a network: its path, and its value on a batch.

    Asked in turn: ``wanted``; the output that the head layer gives; the one with a column per
    class; among several of these, one whose name says so.

    Args:
        network: In eval mode.
        example: One batch, of at least two samples.
        head: Dotted name of the layer that gives the scores; may be none of the network's.
        classes: How many the data set has.
        dense: One score per class at every position: (n, classes, height, width).
        wanted: ``model.output``: position, or key, or a dotted path of them.

    Raises:
        ConfigError: There is no such output, or several could be meant.
        UnsupportedError: The network fails.
    """
    made: list[Tensor] = []
    layer = dict(network.named_modules()).get(head) if head else None
    hook = layer.register_forward_hook(lambda *a: made.append(a[2])) if layer else None
    try:
        found = outputs_of(network, example)
    finally:
        if hook is not None:
            hook.remove()
    if wanted is not None:
        for path, value in found:
            if _name(path) == str(wanted):
                return path, value
        raise ConfigError(
            f"model.output={wanted} is none of the outputs of {type(network).__name__}",
            hint=f"it gives: {describe(found)}",
        )
    if len(found) == 1:
        return found[0]
    for rule in (
        [f for f in found if any(_same(f[1], value) for value in made)],
        [f for f in found if _has_columns(f[1], example, classes, dense)],
    ):
        if len(rule) == 1:
            return rule[0]
        named = [f for f in rule if f[0] and str(f[0][-1]) in NAMES]
        if len(named) == 1:
            return named[0]
    raise ConfigError(
        f"{type(network).__name__} gives several outputs: {describe(found)}; the data set has "
        f"{classes} classes",
        hint=f"say which holds the scores: model.output={_name(found[-1][0])}, say",
    )


def _same(a: Tensor, b: Any) -> bool:
    from torch import Tensor, equal

    return isinstance(b, Tensor) and a.shape == b.shape and equal(a, b)


def _has_columns(value: Tensor, example: tuple[Tensor, ...], classes: int, dense: bool) -> bool:
    if value.ndim < 2 or len(value) != len(example[0]) or value.shape[1] != classes:
        return False
    if dense:
        return value.ndim == 4
    return all(size == 1 for size in value.shape[2:])


def ends_in_sigmoid(value: Tensor) -> bool:
    """Whether what made a tensor last was a sigmoid, views aside."""
    return _made_by(value).startswith("Sigmoid")


def are_probabilities(value: Tensor) -> bool:
    """Whether the rows (n, classes) are probabilities already: a softmax or sigmoid is at the end.

    A softmax written out in other operators is told by its values, on at least two rows.
    """
    if _made_by(value).startswith(("Softmax", "Sigmoid")):
        return True
    rows = value.detach().double()
    in_range = bool((rows >= 0).all() and (rows <= 1).all())
    return in_range and bool(((rows.sum(1) - 1).abs() < SUM_TOLERANCE).all())


def _made_by(value: Tensor) -> str:
    """Name of the operation that made a tensor, views aside; empty where nothing is known."""
    node = value.grad_fn
    while node is not None:
        name = type(node).__name__
        if not name.startswith(VIEWS) or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""
