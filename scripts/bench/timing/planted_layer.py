"""Does ``pqbench.layers`` name the layer that was made slow?

A small network of equal layers is exported; in a copy one layer's 3 x 3 kernel is put into the
middle of a 7 x 7 one, so that it computes the same and costs more. Both are profiled in turns, and
the layer that changed most must be that one.

    python scripts/bench/timing/planted_layer.py --trials 20
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn

from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.ort.backend import OrtBackend
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.backend import Session
from pqbench.export import convert_openvino
from pqbench.report.layers import layer_table

SIDE, CHANNELS, LAYERS = 32, 32, 10


def exported(folder: Path) -> Artifact:
    """Ten convolutions of one size, after one that reads the image."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU())
              for _ in range(LAYERS)]  # fmt: skip
    network = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), *blocks).eval()
    torch.onnx.export(
        network, (torch.rand(1, 3, SIDE, SIDE),), folder / "model.onnx", input_names=["x"],
        output_names=["y"], dynamo=False,
    )  # fmt: skip
    specs = (TensorSpec("x", (None, 3, SIDE, SIDE)),)
    return Artifact("onnx", folder, "model.onnx", specs, ("y",), (LineageEntry("source", 0.0),))


def slowed(artifact: Artifact, layer: str, folder: Path) -> Artifact:
    """A copy in which a layer's kernel has a rim of zeros."""
    model = onnx.load(artifact.path)
    weights = next(w for w in model.graph.initializer if w.name == f"{layer}.weight")
    wide = np.pad(numpy_helper.to_array(weights), ((0, 0), (0, 0), (2, 2), (2, 2)))
    weights.CopyFrom(numpy_helper.from_array(wide, weights.name))
    node = next(n for n in model.graph.node if weights.name in n.input)
    kept = [a for a in node.attribute if a.name not in ("kernel_shape", "pads")]
    del node.attribute[:]
    node.attribute.extend(
        [
            *kept,
            helper.make_attribute("kernel_shape", [7, 7]),
            helper.make_attribute("pads", [3, 3, 3, 3]),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return Artifact(
        "onnx", folder, "model.onnx", artifact.inputs, artifact.outputs, artifact.lineage
    )


def named(sessions: list[Session], rounds: int) -> str:
    """The layer that changed most, as the table says."""
    feed = {"x": np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)}
    looks = [[s.kernels(feed, 20) for _ in range(rounds)] for s in sessions]
    rounds_of = [[look for look in own if look is not None] for own in looks]
    timed = [[look.call_ms for look in own] for own in rounds_of]
    return layer_table(["as it was", "slowed"], rounds_of, timed).largest()[0].name


def main() -> None:
    """Print how often the planted layer was named first, by runtime."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    chosen = np.random.default_rng(0).integers(1, LAYERS + 1, arguments.trials)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "given").mkdir()
        given = exported(folder / "given")
        for runtime in ("ONNX Runtime", "OpenVINO"):
            right = 0
            for trial, number in enumerate(chosen):
                planted = f"{number}.0"
                both = [given, slowed(given, planted, folder / f"{trial}")]
                if runtime == "OpenVINO":
                    both = [
                        convert_openvino(a, folder / f"{trial}_{i}") for i, a in enumerate(both)
                    ]
                    sessions = [OpenvinoBackend(arguments.threads).load(a, [1]) for a in both]
                else:
                    sessions = [OrtBackend(arguments.threads).load(a, [1]) for a in both]
                found = named(sessions, arguments.rounds)
                right += found == planted
                if found != planted:
                    print(f"{runtime}, trial {trial}: planted {planted}, named {found}")
                for session in sessions:
                    session.close()
            print(f"{runtime}: the planted layer was named first in {right} of {arguments.trials}")


if __name__ == "__main__":
    main()
