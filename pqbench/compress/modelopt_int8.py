"""Static INT8 with NVIDIA's Model Optimizer (ModelOpt): Q/DQ pairs where TensorRT wants them.

https://nvidia.github.io/Model-Optimizer/guides/_onnx_quantization.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.assets.converters import MODELOPT
from pqbench.compress.calibration import check_size
from pqbench.compress.own_interpreter import quantize_artifact
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.errors import ConfigError, UnavailableError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.machine.cuda_driver import gpu

PROGRAM = Path(__file__).with_name("modelopt_program.py")
CHOICES = {
    "precision": ("int8", "fp8"),
    "method": ("entropy", "max"),
    "high_precision": ("fp32", "fp16", "bf16"),
}
FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply FP8: Ada


@dataclass(frozen=True)
class ModeloptInt8(Step):
    """Insert Q/DQ pairs by TensorRT's rules: symmetric int8, weights per output channel.

    The tool runs in an environment of its own (``python -m pqbench.runtimes install modelopt``), on
    the CPU. It chooses itself what to leave in float.

    Attributes:
        calibration_size: Training images to calibrate with; the documentation takes 500 for CNNs.
        precision: ``int8``; or ``fp8``, which only TensorRT on a GPU of compute capability 8.9 or
            more multiplies as it is: refused where there is no such GPU.
        method: ``entropy`` (smallest divergence of the histograms) or ``max`` (greatest absolute
            value).
        high_precision: What the rest is computed in: ``fp32``, ``fp16`` or ``bf16``; the tool
            alone would take ``fp16``.
    """

    name: ClassVar[str] = "modelopt_int8"

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "wired for ONNX files, which is what ModelOpt documents for TensorRT"
    }
    limits: ClassVar[Sequence[str]] = (
        "models that are quantized already",
        "`precision=fp8` without an NVIDIA GPU of compute capability 8.9 or more: no runtime here "
        "would multiply it",
    )

    calibration_size: int = 500
    precision: str = "int8"
    method: str = "entropy"
    high_precision: str = "fp32"

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        for key, allowed in CHOICES.items():
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"{self.name}.{key} '{value}' is unknown",
                    hint=f"choose one of {', '.join(allowed)}",
                )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.onnx``.

        Raises:
            UnavailableError: The tool's environment is not there.
            UnsupportedError: The model is quantized already, the tool refuses it or quantizes
                nothing in it, or nothing here multiplies FP8.
        """
        if self.precision == "fp8":
            _require_fp8()
        config = asdict(self)
        return quantize_artifact(
            artifact,
            data,
            workdir,
            self.name,
            MODELOPT,
            PROGRAM,
            self.calibration_size,
            config,
            config,
        )


def _require_fp8() -> None:
    """Refuse FP8 where nothing multiplies it.

    Raises:
        UnsupportedError: There is no NVIDIA GPU that does.
    """
    try:
        card = gpu()
    except UnavailableError as error:
        reason = error.message
    else:
        if tuple(int(part) for part in card.capability.split(".")) >= FP8_CAPABILITY:
            return
        reason = f"{card.name} has compute capability {card.capability}"
    raise UnsupportedError(
        "modelopt_int8.precision=fp8: only TensorRT on a GPU of compute capability 8.9 or more "
        f"multiplies FP8, ONNX Runtime and OpenVINO would compute in float: {reason}",
        hint="precision=int8",
    )
