"""Is a slow layer found? Planted ones, one a trial, by the table of ``pqbench layers``.

A trial draws a convolution of ResNet-18 and makes it slow in one of two ways: its kernel grows
(with zeros, so that it gives what it gave), or costly operators follow it that no name ties to it.
The model as it was and the slow one take turns; the trial is won if the first layer that is named
as slower is the one that was planted, or one that it is fused with.

    python scripts/bench/timing/planted_layer.py --trials 20
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import torch
import torchvision
from onnx import helper, numpy_helper

from pqbench.core.artifact import Artifact, Representation, TensorSpec
from pqbench.core.backend import Backend, KernelProfile
from pqbench.core.instantiate import make
from pqbench.export.onnx_export import clean, quiet_exporter
from pqbench.measure.latency import time_calls
from pqbench.report.layers import LayerTable, layer_table

SIDE = 64
GROW = 4  # zeros on each side of a kernel
SMALLEST = 8  # pixels a side of its outputs, that a kernel grows on: elsewhere zeros take no time
ELEMENTS = 1_500_000  # that the added operators work on, all together: as long as the rest takes
BLOCK_S, LEAD_S, RUNS = 0.2, 0.05, 100
BACKENDS: dict[Representation, str] = {
    "onnx": "pqbench.backends.ort.backend.OrtBackend",
    "openvino": "pqbench.backends.openvino.backend.OpenvinoBackend",
}


@dataclass(frozen=True)
class Plant:
    """What is made slow.

    Attributes:
        layer: Name of the node.
        way: ``kernel`` or ``operators``.
    """

    layer: str
    way: str


def export() -> onnx.ModelProto:
    """ResNet-18 with random weights, as pqbench exports it."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    with quiet_exporter():
        program = torch.onnx.export(
            network, (torch.rand(2, 3, SIDE, SIDE),), dynamo=True, dynamic_shapes=dynamic,
            input_names=["x"], output_names=["y"], opset_version=20, external_data=False,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    return clean(program.model_proto)


def draw(model: onnx.ModelProto, seed: int) -> Plant:
    """A convolution and a way that makes it slow, from the seed."""
    noise = np.random.default_rng(seed)
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    node = nodes[noise.integers(len(nodes))]
    way = str(noise.choice(["kernel", "operators"]))
    return Plant(node.name, way if _shape(model, node)[-1] >= SMALLEST else "operators")


def _shape(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Of its outputs, without the batch: (C, H, W)."""
    shapes = {v.name: v.type.tensor_type.shape for v in model.graph.value_info}
    return [d.dim_value for d in shapes[node.output[0]].dim[1:]]


def planted(model: onnx.ModelProto, plant: Plant, elements: int = ELEMENTS) -> onnx.ModelProto:
    """A copy with one slow layer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = next(n for n in copy.graph.node if n.name == plant.layer)
    if plant.way == "kernel":
        _grow(copy, node)
    else:
        _follow(copy, node, elements)
    return copy


def _grow(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """A larger kernel, zero outside of what it was, and more padding: the same outputs."""
    weights = next(w for w in model.graph.initializer if w.name == node.input[1])
    around = [(0, 0), (0, 0), (GROW, GROW), (GROW, GROW)]
    larger = np.pad(numpy_helper.to_array(weights), around)
    weights.CopyFrom(numpy_helper.from_array(larger, weights.name))
    for attribute in node.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [pad + GROW for pad in attribute.ints]
        if attribute.name == "kernel_shape":
            attribute.ints[:] = larger.shape[2:]


def _follow(model: onnx.ModelProto, node: onnx.NodeProto, elements: int) -> None:
    """Sines of many multiples of what it gives, added with weight 0."""
    copies = max(1, round(elements / int(np.prod(_shape(model, node)))))
    result, inner = node.output[0], f"{node.output[0]}_inner"
    node.output[0] = inner
    constants = {
        "planted_zero": np.zeros((), np.float32),
        "planted_factors": np.linspace(0.5, 1, copies, dtype=np.float32).reshape(-1, 1, 1, 1, 1),
        "planted_axis": np.zeros(1, np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    added = [
        helper.make_node("Mul", [inner, "planted_factors"], ["planted_0"], "planted_0"),
        helper.make_node("Sin", ["planted_0"], ["planted_1"], "planted_1"),
        helper.make_node(
            "ReduceSum", ["planted_1", "planted_axis"], ["planted_2"], "planted_2", keepdims=0
        ),
        helper.make_node("Mul", ["planted_2", "planted_zero"], ["planted_3"], "planted_3"),
        helper.make_node("Add", [inner, "planted_3"], [result], "planted_add"),
    ]
    place = next(i for i, n in enumerate(model.graph.node) if n.name == node.name)
    for offset, extra in enumerate(added):
        model.graph.node.insert(place + 1 + offset, extra)


def save(model: onnx.ModelProto, folder: Path, representation: Representation) -> Path:
    """The folder of an artifact."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    file = "model.onnx"
    if representation == "openvino":
        file = "model.xml"
        ov.save_model(ov.convert_model(folder / "model.onnx"), folder / file, False)
    spec = (TensorSpec("x", (None, 3, SIDE, SIDE)),)
    Artifact(representation, folder, file, spec, ("y",)).save()
    return folder


def trial(
    model: onnx.ModelProto,
    slow: onnx.ModelProto,
    representation: Representation,
    threads: int,
    starts: int,
) -> LayerTable:
    """What the tool's table says of a slow copy: sessions loaded anew, timed and profiled in turns.

    As in ``pqbench layers``, but in this process, so that a trial takes seconds.
    """
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE), np.float32)}
    timed: list[list[float]] = [[], []]
    profiles: list[list[KernelProfile]] = [[], []]
    with tempfile.TemporaryDirectory() as name:
        folders = [
            save(graph, Path(name) / title, representation)
            for title, graph in (("before", model), ("planted", slow))
        ]
        for start in range(starts):
            node = {"_target_": BACKENDS[representation], "threads": threads}
            sessions = [
                make(node, "backend", Backend).load(Artifact.load(folder), [1])
                for folder in folders
            ]
            for side in (0, 1) if start % 2 else (1, 0):
                run = sessions[side].run
                blocks = [time_calls(run, [feed], BLOCK_S, 3, 100_000, LEAD_S)]
                profile = sessions[side].kernels(feed, RUNS)
                blocks.append(time_calls(run, [feed], BLOCK_S, 3, 100_000, LEAD_S))
                assert profile is not None
                profiles[side].append(profile)
                timed[side].append(sum(block.median_ms for block in blocks) / len(blocks))
            for session in sessions:
                session.close()
    return layer_table(["before", "planted"], profiles, timed)


def named_first(table: LayerTable) -> tuple[str, ...]:
    """Operators of the layer that is named first as slower; none where no layer is named."""
    if not (table.differs and table.accounts):
        return ()
    slower = [layer for layer in table.largest() if layer.shown and layer.change.value > 0]
    return slower[0].operators if slower else ()


def main() -> None:
    """Run the trials; a line each, then how many were won."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="of the added operators")
    arguments = parser.parse_args()
    model = export()
    won = 0
    for seed in range(arguments.first, arguments.first + arguments.trials):
        plant = draw(model, seed)
        representation = list(BACKENDS)[seed % 2]
        slow = planted(model, plant, arguments.elements)
        table = trial(model, slow, representation, arguments.threads, arguments.starts)
        first = named_first(table)
        won += plant.layer in first
        print(
            f"seed {seed}: {representation}, {plant.layer} ({plant.way}): timed "
            f"{table.timed_ms[0].value:.3f} {table.timed_change.value:+.3f} ms, layers "
            f"{table.total_change.value:+.3f} ms ({table.unaccounted:.1%} off); named first: "
            f"{first[0] if first else 'none'}{'' if plant.layer in first else ' MISSED'}",
            flush=True,
        )
    print(f"named first in {won} of {arguments.trials} trials")


if __name__ == "__main__":
    main()
