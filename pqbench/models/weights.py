"""Read weights from a file without running code from it, and put them into a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

# What DataParallel, Lightning modules, torch.compile and training scripts put before every name.
PREFIXES = ("module.", "model.", "network.", "_orig_mod.")
CONTAINERS = ("state_dict", "model_state_dict", "model")
AUXILIARY = "aux_classifier."  # heads that segmentation networks have in training alone
SHOWN = 3


def load_file(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict: ``.safetensors``, or a ``.pth``/``.pt``/``.ckpt`` that holds only tensors.

    A checkpoint's ``state_dict`` (Lightning, timm) is taken out of it, and a prefix that all names
    share (``module.``, ``model.``, ``network.``, ``_orig_mod.``) is stripped.

    Raises:
        WeightsError: The file is missing or damaged, holds no state dict, or could only be loaded
            by running code from it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file {path}", hint="set model.weights_file to a file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return _strip(_check(content, path))


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load

    try:
        return load(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error


def _read_torch(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: it holds more than tensors, and loading it could run code",
            hint="save network.state_dict() alone, or safetensors, on a machine where you trust it",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"cannot read {path}: {first}", hint="is it a torch checkpoint?"
        ) from error


def _check(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, no state dict")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path} holds no state dict: entry '{name}' is {type(value).__name__}, no tensor",
                hint=f"a checkpoint may hold it under {', '.join(CONTAINERS)}",
            )
    bad = [n for n, v in content.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise WeightsError(f"{path}: {len(bad)} tensors hold NaN or infinity: {_some(bad)}")
    return dict(content)


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _strip({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def match_names(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give ``state`` back a prefix that ``load_file`` stripped but the network's names have."""
    wanted = set(network.state_dict())
    best = dict(state)
    for prefix in PREFIXES:
        candidate = {f"{prefix}{name}": value for name, value in state.items()}
        if len(wanted & candidate.keys()) > len(wanted & best.keys()):
            best = candidate
    return best


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
    state = match_names(network, state)
    own = network.state_dict()
    counters = ("num_batches_tracked",)  # absent from old checkpoints, without effect in inference
    missing = [n for n in own if n not in state and not n.endswith(counters)]
    if without is not None:
        missing = [n for n in missing if not n.startswith(f"{without}.")]
    unexpected = [
        n for n in state if n not in own and not n.endswith(counters) and AUXILIARY not in n
    ]
    shapes = [
        f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
    problems = [f"{len(found)} {kind}: {_some(found)}" for kind, found in kinds if found]
    if problems:
        raise WeightsError(
            f"{source} do not fit {type(network).__name__}: {'; '.join(problems)}",
            hint="check model.network and model.head against the weights",
        )
    network.load_state_dict({n: v for n, v in state.items() if n in own}, strict=False)
