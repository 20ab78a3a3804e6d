"""A case folder's model through pqbench, and through plain torch."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

from pqbench.core.artifact import Artifact
from pqbench.core.preprocess import PreprocessSettings
from pqbench.core.split import PreparedSplit
from pqbench.core.task import SplitRequest
from pqbench.experiment.stages import prepare_model, prepare_split
from pqbench.nets.checkpoint import load_network

MEAN, STD = 0.5, 0.25


def place_weights(folder: Path) -> None:
    """Put each case's checkpoint where its configuration names it.

    Many are one file, ``plain.pth``; networks that differ from ``Plain`` in their outputs alone
    have its weights under their own name; those for pruning have random ones, for nothing is
    scored.
    """
    weights = folder / "weights"
    for place in sorted(folder.glob("*/conf")):
        case = place.parent
        for name in _named(place):
            if (weights / name).is_file():
                shutil.copy(weights / name, case / name)
    for kind, name in (
        ("features-and-logits", "featlog"),
        ("dict-output", "dictout"),
        ("squeeze-batch-1", "squeezer"),
    ):
        shutil.copy(weights / "plain.pth", folder / kind / f"{name}.pth")
    for kind, file in (
        ("lightning-class-weights", "lit_criterion.ckpt"),
        ("lightning-hydra-template", "lit_net.ckpt"),
    ):
        shutil.copy(weights / file, folder / kind / file)
    networks: Any = importlib.import_module("tbnets")  # beside the cases, on the path of a user
    torch.manual_seed(0)
    for kind, name, network in (
        ("prune-c2f", "c2f", networks.C2fNet),
        ("prune-pixelshuffle", "pixshuf", networks.PixShuf),
        ("prune-vit-qkv", "vit", networks.Vit),
    ):
        torch.save(network().state_dict(), folder / kind / f"{name}.pth")


def _named(conf: Path) -> list[str]:
    """The weights that a case's configurations name."""
    found: list[Any] = [OmegaConf.load(file) for file in conf.glob("model/*.yaml")]
    return [str(node.weights_file) for node in found if node.get("weights_file")]


def case_model(folder: Path, name: str, **change: Any) -> dict[str, Any]:
    """The ``model`` node of a case, its file named by its full path."""
    value: Any = OmegaConf.to_container(OmegaConf.load(folder / "conf" / "model" / f"{name}.yaml"))
    value |= change
    if value["weights_file"] is not None:
        value["weights_file"] = str(folder / value["weights_file"])
    return dict(value)


def prepared(
    root: Path, folder: Path, model: dict[str, Any], split: str = "val", **source: Any
) -> PreparedSplit:
    """A split of a user's images."""
    target = "pqbench.data.folder.ImageFolder"
    request = SplitRequest(
        source={"_target_": target, "root": str(root), **source},
        split=split,
        scored="val",
        exclude=() if split == "val" else ("val",),
        preprocess=PreprocessSettings(**model["preprocess"]),
    )
    prepare_split(folder, request.to_plain())
    return PreparedSplit.load(folder)


def made(
    model: dict[str, Any], split: PreparedSplit, folder: Path, **change: Any
) -> dict[str, Any]:
    """The stage ``prepare_model`` on a user's images."""
    return prepare_model(folder, model, "imagefolder", True, str(split.folder), None, 0, **change)


def top1(folder: Path, split: PreparedSplit) -> float:
    """Share of right answers of a ``torch`` artifact, in percent."""
    network = load_network(Artifact.load(folder))
    with torch.inference_mode():
        parts = [network(torch.from_numpy(b["input"])).argmax(1) for b in split.batches(100)]
    return 100 * float(np.mean(torch.cat(parts).numpy() == split.labels()))


def plain_top1(
    network: nn.Module,
    root: Path,
    predict: Callable[[Any], torch.Tensor] = lambda scores: scores.argmax(1),
    order: Callable[[str], Any] = str,
) -> float:
    """The same by torchvision's ImageFolder and a loop: nothing of pqbench."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [
        transforms.Resize(32),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize([MEAN] * 3, [STD] * 3),
    ]
    data = ImageFolder(str(root), transforms.Compose(steps))
    ranks = {name: i for i, name in enumerate(sorted(data.classes, key=order))}
    labels = torch.tensor([ranks[data.classes[label]] for label in data.targets])
    network.eval()
    with torch.inference_mode():
        parts = [predict(network(x)) for x, _ in torch.utils.data.DataLoader(data, batch_size=100)]
    return 100 * float((torch.cat(parts) == labels).float().mean())
