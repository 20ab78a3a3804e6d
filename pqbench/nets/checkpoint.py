"""Save and load a torch model exactly, pruned shapes included, without pickle.

A network is stored as the ``_target_`` that builds it, the tensors (safetensors), and the integer
attributes in which its modules differ from a freshly built network (``out_channels``, ``groups``,
``num_features``, ``num_heads`` ...). Structural pruning and a replaced head change nothing else, so
the three together rebuild the network exactly, and nothing in the file can run code. A tensor that
several names share is written once, and shared again when it is read.

torch is imported when a function is called, never when this module is.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ConfigError, PqbenchError, UnsupportedError, WeightsError
from pqbench.core.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "weights.safetensors"
NETWORK = "network.json"


def build_network(builder: Mapping[str, Any]) -> nn.Module:
    """Build a network with random weights from its ``_target_`` and arguments.

    Raises:
        ConfigError: The target cannot be imported or refuses the arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from torch import nn

    try:
        network = instantiate(dict(builder), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, PqbenchError):
            raise cause from error
        raise ConfigError(
            f"cannot build the network {builder.get('_target_')}: {cause}",
            hint="check model.network in the configuration",
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{builder.get('_target_')} gives {type(network).__name__}, no nn.Module")
    return network.eval()


def _integers(module: nn.Module) -> dict[str, int | list[int]]:
    out: dict[str, int | list[int]] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, int):
            out[name] = value
        elif isinstance(value, tuple | list) and value and all(isinstance(v, int) for v in value):
            out[name] = list(value)
    return out


def _structural_difference(
    network: nn.Module, fresh: nn.Module
) -> dict[str, dict[str, int | list[int]]]:
    theirs = dict(fresh.named_modules())
    ours = dict(network.named_modules())
    if theirs.keys() != ours.keys():
        odd = sorted(theirs.keys() ^ ours.keys())[:3]
        raise UnsupportedError(
            f"the network's modules differ from what its builder gives ({', '.join(odd)} ...)",
            hint="a step may change sizes and values, not add or remove modules",
        )
    difference: dict[str, dict[str, int | list[int]]] = {}
    for name, module in ours.items():
        before = _integers(theirs[name])
        changed = {k: v for k, v in _integers(module).items() if before.get(k) != v}
        if changed:
            difference[name] = changed
    return difference


def save_network(
    network: nn.Module,
    builder: Mapping[str, Any],
    folder: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    lineage: tuple[LineageEntry, ...],
) -> Artifact:
    """Write a ``torch`` artifact into ``folder`` (created if missing).

    Args:
        network: The network, on the CPU; saved in its own precision.
        builder: ``_target_`` and arguments that build it afresh.
        folder: Where to write.
        inputs: The network's inputs, in the order of ``forward``'s arguments.
        outputs: Names for its outputs.
        lineage: All actions so far.

    Raises:
        UnsupportedError: The network has other modules than its builder gives.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    difference = _structural_difference(network, build_network(builder))
    shared = tied_names(network)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
        if name not in shared
    }
    save_file(tensors, folder / WEIGHTS)
    content: dict[str, Any] = {"builder": dict(builder), "attributes": difference}
    if shared:
        content["shared"] = shared
    write_json(folder / NETWORK, content)
    artifact = Artifact("torch", folder, WEIGHTS, inputs, outputs, lineage)
    artifact.save()
    return artifact


def tied_names(network: nn.Module) -> dict[str, str]:
    """Names of a state dict whose tensor another name holds already: that name by each.

    Weights that layers share, and modules that are registered more than once.
    """
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        owner = first.setdefault(id(value), name)
        if owner != name:
            tied[name] = owner
    return tied


def read_tensors(artifact: Artifact) -> dict[str, Tensor]:
    """The tensors of a ``torch`` artifact by all their names; shared ones are one tensor."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(artifact.path)
    value = json.loads((artifact.folder / NETWORK).read_text(encoding="utf-8"))
    for name, owner in value.get("shared", {}).items():
        tensors[name] = tensors[owner]
    return tensors


def builder_of(artifact: Artifact) -> dict[str, Any]:
    """The builder that a ``torch`` artifact was saved with."""
    return structure_of(artifact)[0]


def structure_of(artifact: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """The builder of a ``torch`` artifact, and the integer attributes that differ from it."""
    value = json.loads((artifact.folder / NETWORK).read_text(encoding="utf-8"))
    return value["builder"], value["attributes"]


def modules_of(artifact: Artifact) -> list[str]:
    """Modules that define the network of a ``torch`` artifact; empty for other kinds."""
    if not (artifact.folder / NETWORK).is_file():
        return []
    found: list[str] = []
    waiting: list[Any] = [builder_of(artifact)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            target = node.get("_target_")
            if isinstance(target, str) and "." in target:
                found.append(target.rpartition(".")[0])
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return [name for name in dict.fromkeys(found) if _is_module(name)]


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module, not a class within one."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def save_like(
    network: nn.Module, artifact: Artifact, folder: Path, entry: LineageEntry
) -> Artifact:
    """Save a network derived from ``artifact`` (pruned, trained): same builder, inputs, outputs."""
    return save_network(
        network,
        builder_of(artifact),
        folder,
        artifact.inputs,
        artifact.outputs,
        (*artifact.lineage, entry),
    )


def skeleton(
    builder: Mapping[str, Any],
    attributes: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, Tensor],
) -> nn.Module:
    """A network with a checkpoint's shapes; its parameters are the given ones, its buffers zeros.

    Args:
        builder: ``_target_`` and arguments.
        attributes: By module, integer attributes in which it differs from what the builder gives.
        tensors: The tensors by their names in the state dict, for shape and element type.

    Raises:
        ConfigError: The builder cannot be imported.
    """
    import torch
    from torch import nn

    network = build_network(builder)
    modules = dict(network.named_modules())
    for name, changed in attributes.items():
        for key, number in changed.items():
            is_tuple = isinstance(getattr(modules[name], key, None), tuple)
            setattr(modules[name], key, tuple(number) if is_tuple else number)
    made: dict[int, nn.Parameter] = {}  # a tensor under several names becomes one parameter
    for key, tensor in tensors.items():
        owner, _, leaf = key.rpartition(".")
        module = modules.get(owner)
        if module is None:
            continue
        if leaf in module._parameters:
            old = module._parameters[leaf]
            if id(tensor) not in made:
                made[id(tensor)] = nn.Parameter(
                    tensor, requires_grad=old is None or old.requires_grad
                )
            module._parameters[leaf] = made[id(tensor)]
        elif leaf in module._buffers:
            module._buffers[leaf] = torch.zeros_like(tensor)
    return network


def load_network(artifact: Artifact) -> nn.Module:
    """Rebuild the network of a ``torch`` artifact, in eval mode, on the CPU.

    Raises:
        WeightsError: Tensors are missing or left over.
        ConfigError: The builder cannot be imported.
    """
    tensors = read_tensors(artifact)
    network = skeleton(*structure_of(artifact), tensors)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{artifact.path} does not fit its network: {error}") from error
    return network.eval()
