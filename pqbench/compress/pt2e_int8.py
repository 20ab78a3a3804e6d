"""Static INT8 in PyTorch itself: PT2E quantization by torchao, compiled by ``torch.compile``.

The network is captured by ``torch.export``, observers collect ranges on training images, and the
graph with quantizers is turned into oneDNN's integer kernels by TorchInductor.
https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.compress.calibration import Calibration, check_size, draw
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_network, structure_of
from pqbench.nets.layers import check_layers, feed_tensors, torch_threads

if TYPE_CHECKING:
    from torch import nn

BUILDER = "pqbench.compress.pt2e_graph.quantized_network"
CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class Pt2eInt8(Step):
    """Quantize convolutions and Linear layers; weights per output channel, activations per tensor.

    Attributes:
        calibration_size: Training images to calibrate with.
        reduce_range: 7-bit activations, against overflow on CPUs without VNNI.
        ignored_layers: Dotted names of modules to leave in float.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    gives: ClassVar[Representation] = "torch_int8"
    final: ClassVar[str] = (
        "only torch.compile turns PT2E's graph into integer kernels; anywhere else it computes in "
        "float with quantizers between"
    )
    limits: ClassVar[Sequence[str]] = (
        "networks that torch.export cannot capture as one graph, LSTMs among them",
    )

    calibration_size: int = 300
    reduce_range: bool = False
    ignored_layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_size(self.calibration_size)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Capture, calibrate, convert, save.

        Raises:
            UnsupportedError: The network cannot be captured, or nothing in it could be quantized.
        """
        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        network = load_network(artifact)
        check_layers(network, self.ignored_layers, "pt2e_int8.ignored_layers")
        specs = [(list(spec.shape), spec.dtype) for spec in artifact.inputs]
        shapes = {
            key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
            for key, value in network.state_dict().items()
        }
        from pqbench.compress.pt2e_graph import quantize

        def calibrate(observed: nn.Module) -> None:
            for at in range(0, len(calibration), CALIBRATION_BATCH):
                observed(*_tensors(calibration, at))

        with torch_threads(data.threads):
            graph = quantize(network, specs, calibrate, self.reduce_range, self.ignored_layers)
        if not graph.weights():
            raise UnsupportedError(
                "pt2e_int8 found nothing to quantize in this model",
                hint="it needs convolutions or Linear layers",
            )
        builder, attributes = structure_of(artifact)
        entry = LineageEntry(
            action="pt2e_int8",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={
                **calibration.details(),
                "layers": graph.weights(),
                "activations": len(graph.activations()),
            },
        )
        saved = save_network(
            graph,
            {
                "_target_": BUILDER,
                "network": json.dumps(builder),
                "attributes": json.dumps(attributes),
                "shapes": json.dumps(shapes),
                "inputs": json.dumps(specs),
                "activations": [list(pair) for pair in graph.activations()],
                "reduce_range": self.reduce_range,
                "ignored_layers": list(self.ignored_layers),
            },
            workdir, artifact.inputs, artifact.outputs, (*artifact.lineage, entry),
        )  # fmt: skip
        saved = replace(saved, representation="torch_int8")
        saved.save()
        return saved


def _tensors(calibration: Calibration, at: int) -> tuple[Any, ...]:
    chosen = calibration.indices[at : at + CALIBRATION_BATCH]
    return feed_tensors(calibration.split, calibration.names, chosen)
