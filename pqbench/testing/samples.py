"""Small real inputs for the checks: a convolutional network, its conversions, and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.split import PreparedSplit

if TYPE_CHECKING:
    from torch import nn

CLASSES = 4
SIDE = 24
SAMPLES = 32
# Conversions that the checks make themselves; any other representation is some step's result.
MADE: tuple[Representation, ...] = (
    *("torch", "onnx", "openvino", "ncnn", "mnn", "executorch", "litert"),
)


def small_network(num_classes: int = CLASSES) -> nn.Module:
    """Three convolutions with BatchNorm, pooling and a linear head."""
    from torch import nn

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *(*block(3, 16, 2), *block(16, 32, 1), *block(32, 32, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)),
    )


def small_split(folder: Path, name: str = "train") -> PreparedSplit:
    """A prepared split of ``SAMPLES`` images (3, ``SIDE``, ``SIDE``) in ``CLASSES`` classes."""
    from pqbench.data.prepare import prepare
    from pqbench.data.preprocess import Preprocess
    from pqbench.data.synthetic import Synthetic

    preprocess = Preprocess(SIDE, SIDE, mean=[0.5] * 3, std=[0.25] * 3)
    dataset = Synthetic(count=SAMPLES, classes=CLASSES, size=SIDE)
    return prepare(dataset, name, preprocess, folder / name)


def small_artifact(folder: Path, split: PreparedSplit, to: Representation) -> Artifact:
    """:func:`small_network` with seeded weights, in one of ``MADE``."""
    import torch

    from pqbench.export.convert import convert
    from pqbench.nets.checkpoint import build_network, save_network

    builder = {"_target_": f"{__name__}.small_network"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(builder)
    artifact = save_network(
        network,
        builder,
        folder / "torch",
        split.specs(),
        ("logits",),
        (LineageEntry("source", 0.0),),
    )
    if to == "torch":
        return artifact
    return convert(artifact, to, split.feed(slice(0, 8)), folder / to)


def outputs(artifact: Artifact, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """What a model in one of ``MADE`` computes, by a plain float32 run on the CPU."""
    from pqbench.export.edge_reference import (
        executorch_outputs,
        litert_outputs,
        mnn_outputs,
        ncnn_outputs,
    )
    from pqbench.export.reference import onnx_outputs, openvino_outputs, torch_outputs

    run = {
        "torch": torch_outputs,
        "onnx": onnx_outputs,
        "openvino": openvino_outputs,
        "ncnn": ncnn_outputs,
        "mnn": mnn_outputs,
        "executorch": executorch_outputs,
        "litert": litert_outputs,
    }
    return run[artifact.representation](artifact, batch)
