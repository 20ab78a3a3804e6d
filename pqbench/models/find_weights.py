"""Which weights a model starts from: bundled, pretrained, a file's, or none yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pqbench.core.errors import ConfigError, WeightsError
from pqbench.models import bundled
from pqbench.models.checkpoint_file import Checkpoint
from pqbench.models.pretrained import WeightsFile
from pqbench.models.settings import ModelSettings, WeightsSource
from pqbench.models.weights import load_file

if TYPE_CHECKING:
    from torch import Tensor

Source = Literal["bundled", "pretrained", "file", "scratch", "none"]  # auto, resolved


@dataclass(frozen=True)
class Found:
    """Weights of a model, before they meet its network.

    Attributes:
        source: Where they came from.
        state: Tensors; None for random weights and for a file that is yet to be read.
        path: Their file.
        checkpoint: What a user's file holds, once it is read.
        card: Figures and licence, as far as known.
    """

    source: Source
    state: Mapping[str, Tensor] | None = None
    path: Path | None = None
    checkpoint: Checkpoint | None = None
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


def find_weights(
    model: ModelSettings, classes: Sequence[str], dataset_name: str, scratch_ok: bool
) -> Found:
    """Follow ``model.weights``; the order of ``auto`` is in :class:`ModelSettings`.

    Args:
        model: Says which weights are wanted.
        classes: The data set's classes.
        dataset_name: Name of the data set, for bundled checkpoints.
        scratch_ok: True if the data set has a recipe for training from scratch.

    Raises:
        ConfigError: A setting is invalid.
        WeightsError: What is wanted is missing, damaged or does not suit.
    """
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
    if shipped is not None:
        state = _shipped_state(shipped, model, classes)
        if state is not None:
            return Found("bundled", state, shipped.path, card=shipped.card)
    if wanted == WeightsSource.file:
        if not model.weights_file:
            raise ConfigError("model.weights=file without a file", "set model.weights_file=PATH")
        path = Path(model.weights_file)
        if not path.is_file():
            raise WeightsError(f"no weights file {path}", hint="set model.weights_file to a file")
        return Found("file", path=path, card={"weights": path.name})
    if wanted == WeightsSource.scratch:
        return Found("scratch")
    if wanted == WeightsSource.none:
        return Found("none")
    if not model.pretrained:
        if wanted == WeightsSource.auto and scratch_ok:
            return Found("scratch")
        raise WeightsError(
            f"model {name} names no pretrained weights",
            hint="set model.weights=file model.weights_file=PATH, or model.weights=none for timing",
        )
    given = _pretrained(model.pretrained)
    if isinstance(given, Mapping):
        return Found("pretrained", given)
    if wanted == WeightsSource.auto and scratch_ok and not given.present:
        return Found("scratch")
    path = given.get()
    return Found("pretrained", load_file(path), path, card=given.card)


def _under(shipped: bundled.Bundled, model: ModelSettings) -> Mapping[str, Tensor]:
    """The pretrained tensors that a checkpoint of some tensors alone lies over; else none.

    Raises:
        WeightsError: They are missing, or the model names none.
    """
    if not shipped.lies_over_pretrained:
        return {}
    given = _pretrained(model.pretrained) if model.pretrained else None
    if given is None:
        raise WeightsError(
            f"the bundled weights {shipped.path.name} lie over pretrained ones, and model "
            f"{model.name} names none",
            hint="leave model.pretrained as it is",
        )
    return given if isinstance(given, Mapping) else load_file(given.get())


def _shipped_state(
    shipped: bundled.Bundled, model: ModelSettings, classes: Sequence[str]
) -> Mapping[str, Tensor] | None:
    """A shipped checkpoint's weights; None if they do not suit and ``weights`` is ``auto``.

    Raises:
        WeightsError: They do not suit, and were asked for; or are damaged.
    """
    name = shipped.path.name
    why = ""
    if not shipped.fits(classes):
        why = (
            f"the bundled weights {name} know the classes {shipped.card.get('classes')}, the data "
            f"set has {list(classes)}"
        )
    elif not shipped.is_of(model.network):
        why = (
            f"the bundled weights {name} are of the network {shipped.card.get('builder')}, "
            f"model.network says {dict(model.network)}"
        )
    if not why:
        return {**_under(shipped, model), **shipped.load()}
    if model.weights == WeightsSource.bundled:
        raise WeightsError(why, hint="model.weights=auto takes what fits")
    return None
