"""Make a user's network give one score per class: choose its output, its columns, their form.

The network stays what it is, its modules and tensors keep their names; only its class gets a
``forward`` that passes on what is scored. A builder that names :func:`adapted` does the same when
the network is rebuilt.

torch is imported when a function is called, never when this module is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TARGET = "pqbench.nets.adapt.adapted"
SMALLEST = 1e-7  # probabilities are kept this far from 0 before their logarithm


@dataclass(frozen=True)
class Adaptation:
    """What is done to a network's outputs. The defaults do nothing.

    Attributes:
        path: Positions and keys that lead to the scored output; empty where it is the only one.
        columns: Which of its columns are kept, in the order of the data set's classes.
        binary: A single column becomes the scores of two classes: ``logit``: 0 and itself;
            ``probability``: the logarithms of 1 - p and p. None leaves it.
        flatten: Scores (n, classes, 1, 1) become (n, classes).
        fold: Weights that are computed at every run (weight and spectral normalisation) become
            plain ones, as in a deployment.
    """

    path: tuple[str | int, ...] = ()
    columns: tuple[int, ...] | None = None
    binary: str | None = None
    flatten: bool = False
    fold: bool = False

    @property
    def needed(self) -> bool:
        """Whether it changes anything."""
        return self != Adaptation()

    @property
    def of_outputs(self) -> bool:
        """Whether it changes the outputs."""
        return replace(self, fold=False).needed

    def builder(self, builder: Mapping[str, Any], shapes: Sequence[Any] = ()) -> dict[str, Any]:
        """A builder that gives the adapted network.

        Args:
            builder: ``_target_`` and arguments of the network itself.
            shapes: Shapes and types of a batch, for a network with lazy layers.
        """
        if not self.needed and not shapes:
            return dict(builder)
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"_target_": TARGET, "network": dict(builder), **settings, "shapes": list(shapes)}


def pick(value: Any, path: Sequence[str | int]) -> Any:
    """The part of a network's outputs that a path leads to."""
    for step in path:
        named = is_dataclass(value) and not isinstance(value, Mapping)
        value = getattr(value, str(step)) if named else value[step]
    return value


def adapt(network: nn.Module, adaptation: Adaptation) -> nn.Module:
    """Change what a network passes on; it is the same object, of a class made from its own."""
    if adaptation.fold:
        fold_weights(network)
    if not adaptation.of_outputs:
        return network
    base: Any = type(network)
    path, columns = tuple(adaptation.path), adaptation.columns
    chosen = list(columns) if columns is not None else None

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        import torch

        scores: Tensor = pick(base.forward(self, *args, **kwargs), path)
        if adaptation.flatten:
            scores = scores.flatten(1)
        if adaptation.binary is not None:
            scores = scores.reshape(-1, 1)
            if adaptation.binary == "logit":
                scores = torch.cat([torch.zeros_like(scores), scores], 1)
            else:
                scores = torch.cat([1 - scores, scores], 1).clamp_min(SMALLEST).log()
        return scores if chosen is None else scores[:, chosen]

    def scored(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return pick(base.forward(self, *args, **kwargs), path)

    # Exporters bind inputs by the names of the parameters.
    forward.__signature__ = inspect.signature(base.forward)  # type: ignore[attr-defined]
    network.__class__ = type(
        base.__name__, (base,), {"forward": forward, "pqbench_scored_part": scored}
    )
    return network


def scored_part(network: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """The output of a network that is scored, as its own layers made it."""
    return getattr(network, "pqbench_scored_part", network)(*example)


def adapted(
    network: nn.Module,
    path: Sequence[str | int] = (),
    columns: Sequence[int] | None = None,
    binary: str | None = None,
    flatten: bool = False,
    fold: bool = False,
    shapes: Sequence[tuple[Sequence[int], str]] = (),
) -> nn.Module:
    """Build an adapted network; named in builders. Arguments as :class:`Adaptation` has them.

    Args:
        network: The network itself.
        path: See :class:`Adaptation`.
        columns: See :class:`Adaptation`.
        binary: See :class:`Adaptation`.
        flatten: See :class:`Adaptation`.
        fold: See :class:`Adaptation`.
        shapes: Where it has lazy layers: shape and NumPy type of each input of a batch.
    """
    from torch import nn

    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.network gives {type(network).__name__}, no nn.Module")
    if shapes:
        materialise(network, shapes)
    chosen = tuple(columns) if columns is not None else None
    return adapt(network, Adaptation(tuple(path), chosen, binary, flatten, fold))


def computed_weights(network: nn.Module) -> list[str]:
    """Names of weights that a parametrization or an old-style hook computes at every run."""
    from torch.nn.utils import parametrize, spectral_norm, weight_norm

    hooks = (weight_norm.__globals__["WeightNorm"], spectral_norm.__globals__["SpectralNorm"])
    found = []
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        if parametrize.is_parametrized(module):
            found += [f"{prefix}{key}" for key in module.parametrizations]
        found += [
            f"{prefix}{hook.name}"
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, hooks)
        ]
    return found


def fold_weights(network: nn.Module) -> None:
    """Make computed weights plain parameters, with the values that they have in inference."""
    from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

    network.eval()
    modules = dict(network.named_modules())
    for name in computed_weights(network):
        owner, _, key = name.rpartition(".")
        module: Any = modules[owner]
        if parametrize.is_parametrized(module, key):
            parametrize.remove_parametrizations(module, key, leave_parametrized=True)
            continue
        kinds = [type(hook).__name__ for hook in module._forward_pre_hooks.values()]
        remove: Any = remove_weight_norm if "WeightNorm" in kinds else remove_spectral_norm
        remove(module, key)


def is_lazy(network: nn.Module) -> bool:
    """Whether a network has parameters whose shape is known after its first run."""
    from torch.nn.parameter import is_lazy as lazy

    return any(lazy(tensor) for tensor in (*network.parameters(), *network.buffers()))


def materialise(network: nn.Module, shapes: Sequence[tuple[Sequence[int], str]]) -> None:
    """Give lazy layers their shapes by one run on zeros.

    Args:
        network: Changed in place.
        shapes: Shape and NumPy type of each input of a batch.
    """
    import torch

    kinds: dict[str, torch.dtype] = {"float32": torch.float32, "int64": torch.int64}
    batch = [torch.zeros(tuple(shape), dtype=kinds[dtype]) for shape, dtype in shapes]
    with torch.no_grad():
        network.eval()(*batch)
