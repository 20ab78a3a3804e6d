"""Read a checkpoint file without running code from it: the state dicts and class names it holds.

Training tools put more than tensors into their files: arguments, paths, configurations, optimizers.
What is harmless of that is read by ``torch.load(weights_only=True)`` with a list of types allowed;
everything else is refused by name.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.errors import WeightsError
from pqbench.models.harmless_types import bag_items, harmless

if TYPE_CHECKING:
    from torch import Tensor

# Where training tools keep the weights, the usual place first.
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
AVERAGED = re.compile(
    r"(?<![a-z])(ema|swa|avg|polyak|slow)(?![a-z])|(ema|swa|avg)(?=model|net)|"
    r"averag|shadow|teacher|momentum_encoder|(?-i:EMA|Ema|SWA)",
    re.IGNORECASE,
)
DEPTH = 4
SHOWN = 3
NO_WEIGHTS = ("optim", "scheduler", "scaler", "loops", "rng")
CLASS_LISTS = ("classes", "class_names", "label_names", "labels", "CLASSES", "categories")
TO_INDEX = ("class_to_idx", "label2id", "class_to_index", "label_to_idx")
TO_NAME = ("idx_to_class", "id2label", "index_to_class", "idx_to_label")


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: The file.
        states: State dicts by their dotted key in the file (empty: the file itself is one), the
            most likely first; averaged weights last.
        classes: Class names in the order of the outputs, where the file says them.
        nameless: Dotted keys of averaged weights that are kept as a list, without names.
    """

    path: Path
    states: Mapping[str, Mapping[str, Tensor]]
    classes: tuple[str, ...] | None = field(default=None)
    nameless: tuple[str, ...] = field(default=())


def is_averaged(key: str) -> bool:
    """Whether a dotted key speaks of averaged weights (EMA, SWA)."""
    return bool(AVERAGED.search(key))


def read_checkpoint(path: Path | str, trusted: Sequence[type] = ()) -> Checkpoint:
    """Read ``.safetensors``, or what ``torch.save`` wrote.

    Args:
        path: The file.
        trusted: Module classes that the configuration has imported already: a checkpoint may hold
            the network itself beside its weights.

    Raises:
        WeightsError: The file is missing, damaged or no checkpoint, holds no state dict, or could
            only be loaded by running code from it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file {path}", hint="set model.weights_file to a file")
    _check_kind(path)
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        content = _read_torch(path, trusted)
    states = dict(sorted(_states(content), key=lambda item: _rank(item[0])))
    if not states:
        _no_state_dict(content, path)
    for key, state in states.items():
        bad = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
        if bad and not is_averaged(key):
            raise WeightsError(f"{path}: {len(bad)} tensors hold NaN or infinity: {some(bad)}")
    return Checkpoint(path, states, _classes(content), tuple(_nameless(content)))


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_kind(path: Path) -> None:
    """Name what is no checkpoint: a pointer, a page, a program, half a file."""
    with path.open("rb") as file:
        first = file.read(512)
    if first.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a git-lfs pointer of {path.stat().st_size} bytes, no checkpoint",
            hint="fetch the file itself: git lfs pull",
        )
    if first.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise WeightsError(
            f"{path} is a web page, no checkpoint",
            hint="the download gave an error or a login page: fetch the file itself",
        )
    if first.startswith(b"\x89HDF"):
        raise WeightsError(
            f"{path} is an HDF5 file (Keras), no torch checkpoint",
            hint="give a state dict of the torch network",
        )
    if path.suffix == ".onnx":
        raise WeightsError(
            f"{path} is an ONNX file, no checkpoint", hint="use model=onnx model.file=PATH"
        )
    if not first.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"cannot read {path}: it is truncated or damaged ({path.stat().st_size:,} bytes, the "
            "end of the archive is missing)",
            hint="fetch or save it again",
        ) from error
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript file, a program and no checkpoint",
            hint="save network.state_dict() of the network that it was made from",
        )
    if any("exported_program" in name or "archive_format" in name for name in names):
        raise WeightsError(
            f"{path} is a program of torch.export, no checkpoint",
            hint="save network.state_dict() of the network that it was made from",
        )


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load

    try:
        return load(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"cannot read {path}: {error}") from error


def _read_torch(path: Path, trusted: Sequence[type]) -> Any:
    import torch

    allowed = harmless(trusted)
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that torch has not tried
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with torch.serialization.safe_globals(allowed):
            what = _refused(path)
        raise WeightsError(
            f"{path} is refused: it holds more than tensors{what}, and loading it could run code",
            hint="save network.state_dict() alone, or safetensors, on a machine where you trust it",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"cannot read {path}: {first}", hint="is it a torch checkpoint?"
        ) from error


def _refused(path: Path) -> str:
    """The types that were not allowed, for the message."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, pickle.UnpicklingError):
        return ""  # files of the old format cannot be looked into
    return f" ({some(sorted(names))})" if names else ""


def _states(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, by its dotted key."""
    import torch

    if isinstance(content, list | tuple) and depth <= DEPTH:  # {"models": [first, second]}
        for i, part in enumerate(content):
            if isinstance(part, dict):
                yield from _states(part, f"{key}.{i}" if key else str(i), depth + 1)
        return
    if (
        not isinstance(content, dict) or not content or depth > DEPTH
    ):  # a configuration stays closed
        return
    values = {
        n: v for n, v in content.items() if not str(n).endswith(("_extra_state", "_metadata"))
    }
    if values and all(
        isinstance(v, torch.Tensor) and isinstance(n, str) for n, v in values.items()
    ):
        yield key, values
        return
    for name, value in content.items():
        if isinstance(name, str) and type(value) is not torch.Tensor:
            if name.lower().startswith(NO_WEIGHTS):
                continue
            yield from _states(value, f"{key}.{name}" if key else name, depth + 1)


def _nameless(content: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """Lists of tensors under a name that speaks of averages, as ``torch_ema`` writes them."""
    import torch

    if isinstance(content, list | tuple):
        tensors = [part for part in content if isinstance(part, torch.Tensor)]
        if tensors and len(tensors) == len(content) and is_averaged(key):
            yield key
    elif isinstance(content, dict) and depth <= DEPTH:
        for name, value in content.items():
            if isinstance(name, str) and not name.lower().startswith(NO_WEIGHTS):
                yield from _nameless(value, f"{key}.{name}" if key else name, depth + 1)


def _rank(key: str) -> tuple[bool, int, int]:
    first = key.partition(".")[0]
    usual = CONTAINERS.index(first) if first in CONTAINERS else len(CONTAINERS)
    return is_averaged(key), usual if key else 0, key.count(".")


def _no_state_dict(content: Any, path: Path) -> None:
    import torch

    if not isinstance(content, dict) or not content:
        what = type(content).__name__
        if isinstance(content, torch.nn.Module):
            what = f"a whole {what}"
        raise WeightsError(
            f"{path} holds {what}, no state dict", hint="save network.state_dict() instead"
        )
    inside = next((content[k] for k in CONTAINERS if isinstance(content.get(k), dict)), content)
    name, value = next(
        ((n, v) for n, v in inside.items() if not isinstance(v, torch.Tensor)), ("", None)
    )
    raise WeightsError(
        f"{path} holds no state dict: entry '{name}' is {type(value).__name__}, no tensor",
        hint=f"a checkpoint may hold it under {', '.join(CONTAINERS)}",
    )


def _classes(content: Any, depth: int = 0) -> tuple[str, ...] | None:
    """Class names by output, where the file's settings say them."""
    items = bag_items(content)
    if items is None or depth > DEPTH:
        return None
    for key in TO_INDEX:
        names = _by_index(items.get(key), False)
        if names:
            return names
    for key in TO_NAME:
        names = _by_index(items.get(key), True)
        if names:
            return names
    for key in CLASS_LISTS:
        value = items.get(key)
        if isinstance(value, list | tuple) and len(value) > 1:
            listed = [name for name in value if isinstance(name, str)]
            return tuple(listed) if len(set(listed)) == len(value) else None
    for name, value in items.items():
        if isinstance(name, str) and not name.lower().startswith(NO_WEIGHTS):
            found = _classes(value, depth + 1)
            if found:
                return found
    return None


def _by_index(value: Any, inverse: bool) -> tuple[str, ...] | None:
    if not isinstance(value, dict) or len(value) < 2:
        return None
    pairs = [(k, v) if inverse else (v, k) for k, v in value.items()]
    try:
        order = {int(index): str(name) for index, name in pairs}
    except (TypeError, ValueError):
        return None
    if sorted(order) != list(range(len(pairs))):
        return None
    return tuple(order[i] for i in range(len(order)))
