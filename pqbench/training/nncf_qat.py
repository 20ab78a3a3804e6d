"""Quantization-aware training with NNCF: a torch network in, an OpenVINO INT8 model out.

Quantizers with ranges from calibration images are put into the network, which is then trained with
them, so that its weights learn to live with the rounding.
https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/compressing-models-during-training/quantization-aware-training.html
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, StepData
from pqbench.nets.checkpoint import load_network
from pqbench.nets.layers import feed_tensors, torch_threads
from pqbench.training.finetune import Finetune
from pqbench.training.fit import fit

if TYPE_CHECKING:
    import openvino
    from torch import Tensor, nn

FILE = "model.xml"
BUILD_TIMEOUT_S = 900


@dataclass(frozen=True)
class NncfQat(Finetune):
    """Fine-tune with quantizers in place, then convert to OpenVINO's integer model.

    The settings are those of ``Finetune``, and:

    Attributes:
        calibration_size: Training images for the ranges that training starts from.
        reduce_range: 7-bit weights in all layers, for CPUs without VNNI.
        recalibrate_bn: Unused here: the statistics are part of what is trained.
        devices: 1 alone: NNCF's quantizers cannot be handed to another process.
    """

    kind: ClassVar[Kind] = "quantize"  # it trains, too
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    gives: ClassVar[Representation] = "openvino"
    why_not: ClassVar[Mapping[Representation, str]] = {
        "onnx": "neither torch.onnx exporter takes NNCF's fake quantizers into a form that ONNX "
        "Runtime runs as integers",
        "torch": "NNCF's torch model computes in float with fake quantizers",
    }
    limits: ClassVar[Sequence[str]] = (
        "data without labels: training needs a class for each sample or each pixel",
    )

    budget: str = "once"
    learning_rate: float = 1e-5
    train_size: int | None = None
    recalibrate_bn: int = 0
    calibration_size: int = 300
    reduce_range: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_size < 1:
            raise ConfigError(f"calibration_size must be at least 1, got {self.calibration_size}")
        if self.recalibrate_bn:
            raise ConfigError("nncf_qat.recalibrate_bn must be 0: the quantizers' ranges fit BN")
        if self.devices != 1:
            raise ConfigError(
                "nncf_qat.devices must be 1: NNCF's quantizers cannot be handed to another process"
            )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Quantize, train, convert, save ``model.xml``.

        Raises:
            UnsupportedError: No classes to learn, nothing was quantized, or a teacher is missing.
        """
        import nncf
        import openvino

        start = time.perf_counter()
        if self.teacher_weight > 0 and data.teacher is None:
            raise UnsupportedError(
                "nncf_qat follows the torch model from before the first step, and there is none",
                hint="set compress.nncf_qat.teacher_weight=0",
            )
        names = [spec.name for spec in artifact.inputs]
        images = data.train.spread(self.calibration_size, data.seed)
        example = feed_tensors(data.train, names, images[:1])
        with torch_threads(data.threads), _patient_build():
            quantized = nncf.quantize(
                load_network(artifact),
                nncf.Dataset([int(i) for i in images], _Feed(data, names)),
                subset_size=len(images),
                advanced_parameters=self._advanced(),
            )
            teacher = load_network(data.teacher) if self.teacher_weight and data.teacher else None
            report = fit(
                quantized,
                data.train,
                self.settings(data.seed, data.threads),
                teacher,
                progress=sys.stderr.isatty(),
                resume=data.resume,
            )
            model = _convert(quantized, example)
        for port, name in zip(model.inputs, names, strict=True):
            port.set_names({name})
        for port, name in zip(model.outputs, artifact.outputs, strict=True):
            port.set_names({name})
        quantizers = sum(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        if not quantizers:
            raise UnsupportedError(
                "nncf_qat found nothing to quantize in this network",
                hint="it needs convolutions or Linear layers",
            )
        openvino.save_model(model, workdir / FILE, compress_to_fp16=False)
        entry = LineageEntry(
            action="nncf_qat",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={
                **asdict(report),
                "calibration_size": len(images),
                "quantizers": quantizers,
            },
        )
        return artifact.derive(workdir, FILE, entry, "openvino")

    def _advanced(self) -> object:
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        fix = OverflowFix.ENABLE if self.reduce_range else OverflowFix.DISABLE
        return AdvancedQuantizationParameters(overflow_fix=fix)


@contextmanager
def _patient_build() -> Iterator[None]:
    """Let NNCF take more than its minute to build its C++ extension on first use."""
    key = "NNCF_EXTENSION_LOAD_TIMEOUT"
    given = os.environ.get(key)
    os.environ.setdefault(key, str(BUILD_TIMEOUT_S))
    try:
        yield
    finally:
        if given is None:
            del os.environ[key]


class _Feed:
    """Turns an image's index into what NNCF calls the network with."""

    def __init__(self, data: StepData, names: Sequence[str]) -> None:
        self.data = data
        self.names = names

    def __call__(self, index: int) -> object:
        tensors = feed_tensors(self.data.train, self.names, [index])
        return tensors[0] if len(tensors) == 1 else tensors


def _convert(network: nn.Module, example: tuple[Tensor, ...]) -> openvino.Model:
    import nncf
    import openvino

    given = example[0] if len(example) == 1 else example
    stripped = nncf.strip(network.eval(), do_copy=False, example_input=given)
    shapes = [openvino.PartialShape([-1, *tensor.shape[1:]]) for tensor in example]
    return openvino.convert_model(stripped, example_input=given, input=shapes)
