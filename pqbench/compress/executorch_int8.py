"""Static INT8 for ExecuTorch: PT2E quantization by XNNPACK's own quantizer, lowered to a program.

The network is captured by ``torch.export``, observers collect ranges on training images, and the
program's convolutions and Linear layers become integer kernels of XNNPACK.
https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pqbench.compress.calibration import Calibration, check_size, draw
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network
from pqbench.nets.executorch_lower import lower, require_executorch
from pqbench.nets.executorch_net import PROGRAM, open_method, run_sample
from pqbench.nets.layers import check_layers, feed_tensors, torch_threads
from pqbench.nets.static_shapes import static_shapes

if TYPE_CHECKING:
    import torch
    from torch import nn

# The program against the quantized network that it was made of, on calibration images, in dB of
# signal over noise. Other roundings move values by a step of 8 bits here and there: 28 dB on
# EfficientNet-Lite0. A wrong kernel gives some dB.
LEAST_DB = 12.0
_COMPARED = 8


@dataclass(frozen=True)
class ExecutorchInt8(Step):
    """Quantize all that XNNPACK computes in integers; weights per output channel.

    Attributes:
        calibration_size: Training images to calibrate with.
        per_channel: False gives all of a layer's weights one scale.
        ignored_layers: Dotted names of modules to leave in float.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    gives: ClassVar[Representation] = "executorch"
    final: ClassVar[str] = "an ExecuTorch program is made for ExecuTorch's runtime alone"
    limits: ClassVar[Sequence[str]] = (
        "networks that torch.export cannot capture as one graph; inputs of free size",
    )

    calibration_size: int = 300
    per_channel: bool = True
    ignored_layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_size(self.calibration_size)

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Capture, calibrate, convert, lower, and compare the program with what it was made of.

        Raises:
            UnavailableError: ExecuTorch is not installed.
            UnsupportedError: The network cannot be captured or lowered, nothing in it could be
                quantized, or the program computes something else.
        """
        require_executorch()
        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        shapes = static_shapes(artifact, "ExecuTorch", 1)
        network = load_network(artifact).eval()
        check_layers(network, self.ignored_layers, "executorch_int8.ignored_layers")
        import torch

        example = tuple(torch.zeros(shape) for shape in shapes.values())
        with torch_threads(data.threads):
            quantized = self._quantize(network, example, calibration)
            counts = lower(quantized, example, workdir)
            if not counts["integer"]:
                raise UnsupportedError(
                    "executorch_int8 found nothing to quantize in this model",
                    hint="it needs convolutions or Linear layers",
                )
            parity = self._parity(quantized, workdir / PROGRAM, calibration, data.threads)
        entry = LineageEntry(
            action="executorch_int8",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "ignored_layers": list(self.ignored_layers)},
            details={
                **calibration.details(),
                "layers": sum(counts["integer"].values()),
                "parity_db": round(parity, 1),
                "delegated": sum(counts["delegated"].values()),
                "portable": sum(counts["portable"].values()),
            },
        )
        return artifact.derive(workdir, PROGRAM, entry, "executorch")

    def _quantize(
        self, network: nn.Module, example: tuple[torch.Tensor, ...], calibration: Calibration
    ) -> nn.Module:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantizer import get_module_name_filter

        from pqbench.compress.pt2e_graph import capture_and_quantize

        quantizer = XNNPACKQuantizer()
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=self.per_channel))
        left = [get_module_name_filter(name) for name in self.ignored_layers]
        quantizer.set_filter_function(lambda node: not any(inside(node) for inside in left))

        def calibrate(observed: nn.Module) -> None:
            for position in range(len(calibration)):
                observed(*_tensors(calibration, position))

        return capture_and_quantize(network, example, None, quantizer, calibrate)

    def _parity(
        self, quantized: nn.Module, program: Path, calibration: Calibration, threads: int
    ) -> float:
        """Signal over noise in dB of the program's outputs over some calibration images.

        Raises:
            UnsupportedError: It is below ``LEAST_DB``.
        """
        import torch

        method = open_method(program, threads)
        power = noise = 0.0
        for position in range(min(_COMPARED, len(calibration))):
            tensors = _tensors(calibration, position)
            with torch.no_grad():
                expected = quantized(*tensors)
            outputs = expected if isinstance(expected, (tuple, list)) else (expected,)
            got = run_sample(method, [tensor.numpy() for tensor in tensors])
            for ours, theirs in zip(got, outputs, strict=True):
                power += float((theirs.numpy() ** 2).sum())
                noise += float(((ours - theirs.numpy()) ** 2).sum())
        decibels = 10 * float(np.log10(max(power, 1e-30) / max(noise, 1e-30)))
        if decibels < LEAST_DB:
            raise UnsupportedError(
                f"ExecuTorch's program differs from the quantized network it was made of: "
                f"{decibels:.1f} dB of signal over noise, at least {LEAST_DB:.0f} are asked for",
                hint="use compress=nncf_int8 with backend=openvino for this model",
            )
        return decibels


def _tensors(calibration: Calibration, position: int) -> tuple[torch.Tensor, ...]:
    index = int(calibration.indices[position])
    return feed_tensors(calibration.split, calibration.names, slice(index, index + 1))
