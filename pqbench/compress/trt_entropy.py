"""Calibration images for TensorRT's own INT8: it calibrates by entropy while it builds the engine.

https://docs.nvidia.com/deeplearning/tensorrt/api/python_api/infer/Int8/Calibrator.html
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.compress.calibration import check_size, draw, refuse_quantized
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.calibration_batches import write_batches
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData


@dataclass(frozen=True)
class TrtEntropyInt8(Step):
    """Put calibration images beside the ONNX file, which stays as it is.

    The work is done where the engine is built, by backend ``tensorrt`` on TensorRT 10:
    ``IInt8EntropyCalibrator2`` chooses each tensor's range by the smallest divergence of its
    histogram, and TensorRT itself chooses which layers run in INT8. TensorRT 11 and TensorRT-RTX
    have no calibration any more.

    Attributes:
        calibration_size: Training images to calibrate with; TensorRT's documentation takes 500 as
            enough for ImageNet classifiers.
        batch_size: Images per calibration batch. Only whole batches are drawn. A model whose batch
            is fixed is calibrated with that.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    gives: ClassVar[Representation] = "onnx_calibrated"
    final: ClassVar[str] = "only TensorRT 10 calibrates while it builds its engine"
    why_not: ClassVar[Mapping[Representation, str]] = {
        "onnx": "TensorRT 10 alone quantizes while it builds its engine; compress=ort_int8_trt "
        "gives ONNX that is quantized already"
    }
    limits: ClassVar[Sequence[str]] = (
        "models that are quantized already",
        "machines with TensorRT 11 or TensorRT-RTX, which have no calibration: take `ort_int8_trt`",
    )

    calibration_size: int = 500
    batch_size: int = 10

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        if self.batch_size < 1:
            raise ConfigError(f"trt_entropy_int8.batch_size must be at least 1: {self.batch_size}")
        if self.calibration_size < self.batch_size:
            raise ConfigError(
                f"trt_entropy_int8.calibration_size={self.calibration_size} does not fill a "
                f"batch of {self.batch_size}",
                hint="lower batch_size",
            )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Draw the images and save them beside a copy of the ONNX file.

        Raises:
            UnsupportedError: The model is quantized already, has an input that the data set does
                not feed, or the train split does not fill one batch.
        """
        import onnx

        start = time.perf_counter()
        refuse_quantized(onnx.load(artifact.path, load_external_data=False), "trt_entropy_int8")
        batch_size = artifact.inputs[0].shape[0] or self.batch_size
        found = min(self.calibration_size, len(data.train))
        count = found - found % batch_size
        if not count:
            raise UnsupportedError(
                f"trt_entropy_int8: {found} training images do not fill one calibration batch of "
                f"{batch_size}",
                hint="lower batch_size or raise dataset.train_limit",
            )
        calibration = draw(artifact, data, count)
        for path in artifact.model_files():
            target = workdir / path.relative_to(artifact.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        batches = write_batches(workdir, calibration.names, calibration, count, batch_size)
        entry = LineageEntry(
            action="trt_entropy_int8",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={
                **calibration.details(),
                "calibration_batch_size": batch_size,
                "calibration_arrays_sha256": batches.content,
            },
        )
        return artifact.derive(workdir, artifact.file, entry, self.gives)
