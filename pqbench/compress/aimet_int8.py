"""Static INT8 with Qualcomm's AIMET, its weights rounded adaptively (AdaRound) if asked.

https://quic.github.io/aimet-pages/releases/latest/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.assets.converters import AIMET
from pqbench.compress.calibration import check_size
from pqbench.compress.own_interpreter import quantize_artifact
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.errors import ConfigError
from pqbench.core.step import Kind, Step, StepData

PROGRAM = Path(__file__).with_name("aimet_program.py")
SCHEMES = {"minmax": "min_max", "sqnr": "tf_enhanced"}  # ours: AIMET's


@dataclass(frozen=True)
class AimetInt8(Step):
    """Simulate quantization, then write it as Q/DQ pairs that runtimes compute in integers.

    The tool runs in an environment of its own (``python -m pqbench.runtimes install aimet``).

    Attributes:
        calibration_size: Training images to calibrate with.
        method: How ranges follow from values: ``sqnr`` (least noise of rounding and clipping
            together; AIMET's name is ``tf_enhanced``), or ``minmax``, which lost 8.2 points of a
            small MobileNetV3 where ``sqnr`` lost 1.4.
        adaround: Choose for every weight whether it is rounded up or down, so that each layer's
            output is closest to the float one (AdaRound).
        adaround_images: Calibration images that AdaRound looks at.
        adaround_batch: How many of them a step looks at, if the model's batch is free.
        adaround_iterations: Steps of its optimization for each layer.
    """

    name: ClassVar[str] = "aimet_int8"

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "aimet-onnx works on ONNX files; PyTorch cannot load what it writes"
    }
    limits: ClassVar[Sequence[str]] = ("models that are quantized already",)

    calibration_size: int = 300
    method: str = "sqnr"
    adaround: bool = False
    adaround_images: int = 128
    adaround_batch: int = 32
    adaround_iterations: int = 10000

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        if self.method not in SCHEMES:
            raise ConfigError(
                f"{self.name}.method '{self.method}' is unknown",
                hint=f"choose one of {', '.join(SCHEMES)}",
            )
        for key in ("adaround_images", "adaround_batch", "adaround_iterations"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{self.name}.{key} must be at least 1, got {getattr(self, key)}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.onnx``.

        Raises:
            UnavailableError: The tool's environment is not there.
            UnsupportedError: The model is quantized already, or the tool refuses it or quantizes
                nothing in it.
        """
        settings = {
            "scheme": SCHEMES[self.method],
            "adaround": self.adaround,
            "images": self.adaround_images,
            "batch": self.adaround_batch,
            "iterations": self.adaround_iterations,
            "threads": data.threads,
            "seed": data.seed,
        }
        return quantize_artifact(
            artifact,
            data,
            workdir,
            self.name,
            AIMET,
            PROGRAM,
            self.calibration_size,
            asdict(self),
            settings,
        )
