"""Every pruning criterion on every kind of network: pruned, exported, compared, shapes checked.

Random weights and random images: what is shown is that the criterion removes what it should, that
the pruned network exports, that the exported one computes the same (SQNR against PyTorch), and that
its output has the shape it had. For networks with recurrent layers, which Torch-Pruning cannot
prune, the refusal and what works instead. Prints a Markdown table.

    python scripts/bench/accuracy/criteria.py [--models resnet18,cnn] [--criteria taylor]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pqbench.compress.criteria import CRITERIA
from pqbench.compress.ort_dynamic import OrtDynamic
from pqbench.compress.prune import Prune
from pqbench.compress.prune_unstructured import PruneUnstructured
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import UnsupportedError
from pqbench.core.files import write_json
from pqbench.core.split import PreparedSplit
from pqbench.core.step import Step, StepData
from pqbench.export.convert import convert
from pqbench.export.reference import onnx_outputs, torch_outputs
from pqbench.machine.cpu import usable_cores
from pqbench.nets.checkpoint import build_network, save_network
from pqbench.nets.layers import recalibrate_batch_norm

CLASSES = 10
IMAGES = 32
TOKENS, VOCABULARY = 24, 1000
RATIO = 0.3
# Name: what builds it, and its input's side in pixels where that is not --size.
NETWORKS: dict[str, tuple[dict[str, Any], int | None]] = {
    "mobilenetv3": ({"_target_": "torchvision.models.mobilenet_v3_large"}, None),
    "resnet18": ({"_target_": "torchvision.models.resnet18"}, None),
    "densenet121": ({"_target_": "torchvision.models.densenet121"}, None),
    "fcn_resnet50": ({"_target_": "pqbench.models.segmentation.FcnResNet50"}, None),
    "cnn": ({"_target_": "pqbench.models.cnn.Cnn"}, 32),
}
LSTM = {
    "_target_": "pqbench.models.text.LstmClassifier",
    "vocabulary": VOCABULARY,
    "layers": 2,
    "num_classes": CLASSES,
}
HEAD = ("model", "step", "parameters", "MACs", "output", "parity", "seconds")


def write_split(
    folder: Path,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any],
    image: bool,
) -> PreparedSplit:
    """A prepared split of these arrays."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", labels)
    norm = {"input": {"mean": [0.5] * 3, "std": [0.25] * 3}} if image else {}
    manifest = {
        "name": "train",
        "count": len(labels),
        "classes": [str(i) for i in range(CLASSES)],
        "arrays": list(arrays),
        "normalization": norm,
        "sources": [f"{i:064x}" for i in range(len(labels))],
        "notes": [],
        "content": folder.name,
    }
    write_json(folder / "manifest.json", manifest)
    return PreparedSplit.load(folder)


def images(folder: Path, size: int, dense: bool) -> PreparedSplit:
    """Random images with one class each, or one class per pixel."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (IMAGES, size, size) if dense else IMAGES)
    pixels = rng.integers(0, 256, (IMAGES, size, size, 3), np.uint8)
    return write_split(folder, {"input": pixels}, labels.astype(np.int16 if dense else int), True)


def texts(folder: Path) -> PreparedSplit:
    """Random token ids."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, VOCABULARY, (IMAGES, TOKENS))
    lengths = rng.integers(1, TOKENS + 1, IMAGES)
    labels = rng.integers(0, CLASSES, IMAGES)
    return write_split(folder, {"input_ids": ids, "length": lengths}, labels, False)


def model(
    builder: dict[str, Any], split: PreparedSplit, specs: tuple[TensorSpec, ...], folder: Path
) -> Artifact:
    """The network with random weights and measured BatchNorm statistics."""
    import torch

    torch.manual_seed(0)
    network = build_network(builder).eval()
    recalibrate_batch_norm(network, split, [s.name for s in specs], np.arange(len(split)))
    entry = LineageEntry("source", 0.0)
    return save_network(network, builder, folder, specs, ("logits",), (entry,))


def cells(details: Mapping[str, Any]) -> tuple[str, str]:
    """What is gone of the parameters, or zero; and of the MACs."""
    if "parameter_reduction" in details:
        macs = details["macs_reduction"]
        return f"-{details['parameter_reduction']:.1%}", "-" if macs is None else f"-{macs:.1%}"
    if "zero_share" in details:
        return f"{details['zero_share']:.1%} zero", "as before"
    return "as before", "as before"


def row(name: str, label: str, source: Artifact, step: Step, data: StepData) -> tuple[str, ...]:
    """Apply, export, compare: one line of the table."""
    batch = data.train.feed(slice(0, 4))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        (folder := Path(scratch) / "step").mkdir()
        try:
            if "torch" in step.takes:
                result = step.apply(source, data, folder)
                onnx = convert(result, "onnx", batch, Path(scratch) / "onnx")
            else:
                exported = convert(source, "onnx", batch, Path(scratch) / "onnx")
                result = onnx = step.apply(exported, data, folder)
        except UnsupportedError as error:
            return (name, label, "refused: " + str(error).replace("|", "\\|"), "", "", "", "")
        shape = onnx_outputs(onnx, batch)[0].shape
        before = torch_outputs(source, batch)[0].shape
        assert shape == before, f"{name}, {label}: output {before} became {shape}"
        parity = onnx.lineage[-1].details.get("parity")
        decibels = "quantized" if parity is None else f"{parity['sqnr_db']:.0f} dB"
    seconds = f"{time.perf_counter() - start:.0f}"
    size = " x ".join(map(str, shape[1:]))
    return (name, label, *cells(result.lineage[-1].details), f"n x {size}", decibels, seconds)


def table(models: list[str], criteria: list[str], size: int, scratch: Path) -> Iterator[Any]:
    """All rows, one by one."""
    for name in models:
        if name == "lstm":
            continue
        builder, own = NETWORKS[name]
        side = own or size
        split = images(scratch / f"data_{name}", side, name == "fcn_resnet50")
        specs = (TensorSpec("input", (None, 3, side, side)),)
        source = model({**builder, "num_classes": CLASSES}, split, specs, scratch / name)
        data = StepData(split, 0, usable_cores())
        for criterion in criteria:
            step = Prune(RATIO, criterion=criterion, gradient_images=8, recalibrate_bn=IMAGES)
            yield row(name, f"prune, {criterion}", source, step, data)
    if "lstm" in models:
        split = texts(scratch / "data_lstm")
        specs = (
            TensorSpec("input_ids", (None, TOKENS), "int64"),
            TensorSpec("length", (None,), "int64"),
        )
        source = model(LSTM, split, specs, scratch / "lstm")
        data = StepData(split, 0, usable_cores())
        for label, step in (
            ("prune", Prune(RATIO)),
            ("prune, ignored_layers=[lstm]", Prune(RATIO, ignored_layers=["lstm"])),
            ("prune_unstructured", PruneUnstructured(0.5)),
            ("ort_dynamic", OrtDynamic()),
        ):
            yield row("lstm", label, source, step, data)


def main() -> int:
    """Print the table; 1 if anything but the LSTM's channels was refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [*NETWORKS, "lstm"]
    parser.add_argument("--models", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--criteria", default=",".join(CRITERIA), help=f"of {','.join(CRITERIA)}")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    chosen = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |")
    print("| --- " * len(HEAD) + "|", flush=True)
    refused = 0
    with tempfile.TemporaryDirectory() as scratch:
        models, criteria = chosen.models.split(","), chosen.criteria.split(",")
        for cells in table(models, criteria, chosen.size, Path(scratch)):
            refused += cells[0] != "lstm" and cells[2].startswith("refused")
            print("| " + " | ".join(cells) + " |", flush=True)
    if refused:
        print(f"{refused} criteria were refused", file=sys.stderr)
    return int(refused > 0)


if __name__ == "__main__":
    raise SystemExit(main())
