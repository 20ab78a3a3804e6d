"""From what a network gives to one score per class: which output, which columns, in which form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pqbench.core.errors import UnsupportedError
from pqbench.models.heads import FittedHead
from pqbench.models.outputs import are_probabilities, choose, ends_in_sigmoid
from pqbench.models.settings import ModelSettings
from pqbench.nets.adapt import Adaptation

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGITS, PROBABILITIES = "logits", "probabilities"  # what the scores are
SCORED_TASKS = ("classification", "text_classification", "segmentation")


def score_adaptation(
    network: nn.Module,
    model: ModelSettings,
    batch: tuple[Tensor, ...],
    fitted: FittedHead,
    classes: int,
) -> tuple[Adaptation, list[str], str]:
    """What must be done to the outputs so that they are one score per class, in order.

    Returns:
        That; what was assumed; and what the scores are then, ``logits`` or ``probabilities``.

    Raises:
        UnsupportedError: They are not, and cannot be made so.
    """
    task = model.task
    dense = task == "segmentation"
    if task not in SCORED_TASKS and model.output is None:
        return Adaptation(), [], LOGITS
    wanted = 1 if fitted.binary and fitted.columns is None else classes
    path, value = choose(network, batch, model.head, wanted, dense, model.output)
    notes = []
    if path:
        shown = ".".join(str(step) for step in path)
        notes.append(f"of what the network gives, '{shown}' is scored (model.output)")
    if task not in SCORED_TASKS:
        return Adaptation(path), notes, LOGITS
    flatten = not dense and value.ndim > 2 and all(size == 1 for size in value.shape[2:])
    if fitted.binary:
        ends = ends_in_sigmoid(value)
        form = "sigmoid > 0.5" if not ends else "its own sigmoid > 0.5"
        notes.append(f"one output for two classes: scored as {form} for the second of them")
        if value.numel() != len(batch[0]):
            raise _other_columns(network, path, value, classes)
        kind = "probability" if ends else "logit"
        return Adaptation(path, fitted.columns, kind, flatten), notes, LOGITS
    shown_columns = value.shape[1] if value.ndim > 1 else 0
    right = len(fitted.columns or ()) == classes or shown_columns == classes
    if not right or (value.ndim != 4 if dense else value.ndim != 2 and not flatten):
        raise _other_columns(network, path, value, classes)
    ready = not dense and are_probabilities(value.flatten(1))
    adaptation = Adaptation(path, fitted.columns, None, flatten)
    return adaptation, notes, PROBABILITIES if ready else LOGITS


def _other_columns(
    network: nn.Module, path: Sequence[object], value: Tensor, classes: int
) -> UnsupportedError:
    which = f"output '{'.'.join(map(str, path))}'" if path else "output"
    return UnsupportedError(
        f"the {which} of {type(network).__name__} has shape {tuple(value.shape)} for a batch of "
        f"{len(value) if value.ndim else 1}, the data set has {classes} classes",
        hint="the output must hold one score per class: (batch, classes)",
    )


def column_count(network: nn.Module, model: ModelSettings, batch: tuple[Tensor, ...]) -> int | None:
    """Columns of the scores of a network whose head is no layer that could tell."""
    if model.task not in SCORED_TASKS:
        return None
    network.eval()
    _, value = choose(network, batch, model.head, 0, False, model.output)
    return int(value.shape[1]) if value.ndim > 1 else 1
