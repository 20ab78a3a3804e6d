"""Models and inputs for the benchmarks of pqbench itself: random weights, random images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.files import write_json
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import build_network, save_network

CLASSES = 10
BACKENDS = {
    "torch": "pqbench.backends.torch.backend.TorchBackend",
    "ort": "pqbench.backends.ort.backend.OrtBackend",
    "openvino": "pqbench.backends.openvino.backend.OpenvinoBackend",
}
# About 0.1 ms and about 10 ms at batch size 1 on two cores of a server CPU.
SIZES = {"small": 32, "large": 224}


def _layer(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"torch.nn.{kind}", **arguments}


BUILDERS: dict[str, dict[str, Any]] = {
    "small": {
        "_target_": "torch.nn.Sequential",
        "_args_": [
            _layer("Conv2d", in_channels=3, out_channels=16, kernel_size=3, stride=2, padding=1),
            _layer("ReLU"),
            _layer("Conv2d", in_channels=16, out_channels=32, kernel_size=3, stride=2, padding=1),
            _layer("ReLU"),
            _layer("Flatten"),
            _layer("Linear", in_features=32 * 8 * 8, out_features=CLASSES),
        ],
    },
    "large": {
        "_target_": "torchvision.models.resnet18",
        "weights": None,
        "num_classes": CLASSES,
    },
}


def backend_node(name: str, threads: int) -> dict[str, Any]:
    """Configuration of a backend with its defaults."""
    return {"_target_": BACKENDS[name], "name": name, "threads": threads}


def make_split(folder: Path, size: int, count: int = 64, name: str = "input") -> PreparedSplit:
    """A prepared split of random images, ``size`` pixels square, for the input ``name``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(folder / f"{name}.npy", rng.integers(0, 256, (count, size, size, 3), np.uint8))
    np.save(folder / "labels.npy", np.arange(count) % CLASSES)
    write_json(
        folder / "manifest.json",
        {
            "name": "train",
            "count": count,
            "classes": [str(i) for i in range(CLASSES)],
            "arrays": [name],
            "normalization": {name: {"mean": [0.5] * 3, "std": [0.25] * 3}},
            "sources": [f"{i:064x}" for i in range(count)],
            "notes": [],
            "content": f"random-{size}-{count}",
        },
    )
    return PreparedSplit.load(folder)


def make_model(folder: Path, name: str, representation: str, split: PreparedSplit) -> Artifact:
    """The model called ``small`` or ``large``, in the representation that a backend loads."""
    import torch

    from pqbench.export.convert import convert

    torch.manual_seed(0)
    builder = BUILDERS[name]
    artifact = save_network(
        build_network(builder),
        builder,
        folder / "torch",
        (TensorSpec("input", (None, 3, SIZES[name], SIZES[name])),),
        ("logits",),
        (LineageEntry("source", 0.0),),
    )
    if representation == "torch":
        return artifact
    batch = split.feed(slice(0, 16))
    return convert(artifact, representation, batch, folder / representation)  # type: ignore[arg-type]


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a plain table."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, tuple("-" * w for w in widths), *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
