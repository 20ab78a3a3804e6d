"""INT8 quantization that gives layers back to float until the accuracy is kept.

``nncf.quantize_with_accuracy_control``: quantize, score labelled images, rank the layers by what
each costs, and restore the worst until the drop is small enough.
https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/quantizing-with-accuracy-control.html
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pqbench.compress.calibration import Calibration, draw
from pqbench.compress.nncf_int8 import (
    NncfInt8,
    fake_quantizers,
    openvino_edges,
    read_float_model,
)
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, DataError, UnsupportedError
from pqbench.core.step import StepData

if TYPE_CHECKING:
    import openvino

Item = tuple[dict[str, Any], Any]


@dataclass(frozen=True)
class NncfAccuracyInt8(NncfInt8):
    """``nncf_int8`` with a limit on the accuracy lost, for backend openvino.

    The images that are scored here are training images that did not calibrate; the drop on the
    split of the experiment may differ by its sampling error.

    Attributes:
        max_drop: Largest drop of the share of right answers, in (0, 1): 0.01 is one point.
        validation_size: Labelled training images to score, beside those that calibrate.
        ranking_size: Of these, how many rank the layers.
    """

    takes: ClassVar[tuple[Representation, ...]] = ("openvino",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "onnx": "wired for OpenVINO, whose compiled model NNCF hands to the scoring",
        "torch": "NNCF's accuracy control works on OpenVINO and ONNX models only",
    }
    limits: ClassVar[Sequence[str]] = ("data whose labels are not one class per sample or pixel",)

    max_drop: float = 0.01
    validation_size: int = 300
    ranking_size: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.max_drop < 1.0:
            raise ConfigError(f"max_drop must lie between 0 and 1, got {self.max_drop}")
        for key in ("validation_size", "ranking_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} must be at least 1, got {getattr(self, key)}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Quantize, score, restore, save ``model.xml``.

        Raises:
            DataError: No training images are left to score.
            UnsupportedError: Labels are no classes, or the model is quantized already.
        """
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        whole = self._validation(calibration, data)
        model = read_float_model(artifact, "nncf_accuracy_int8")
        edges = openvino_edges(model)
        scores: list[float] = []

        def validate(
            compiled: openvino.CompiledModel, items: Iterable[Item]
        ) -> tuple[float, list[float]]:
            right = [_right(compiled(feed)[0], label) for feed, label in items]
            if len(right) == len(whole):  # else a probe of one image, or a ranking of layers
                scores.append(float(np.mean(right)))
            return float(np.mean(right)), right

        with self.matched():
            quantized = nncf.quantize_with_accuracy_control(
                model,
                nncf.Dataset(calibration),
                nncf.Dataset(whole, lambda item: item[0]),
                validate,
                max_drop=self.max_drop,
                subset_size=len(calibration),
                **self.options(edges),
                advanced_quantization_parameters=self.advanced(onnx=False),
                advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                    ranking_subset_size=min(self.ranking_size, len(whole))
                ),
            )
        # NNCF's last call may have ranked layers on fewer images: score what is kept on all.
        kept, _ = validate(openvino.Core().compile_model(quantized, "CPU"), whole)
        openvino.save_model(quantized, workdir / "model.xml", compress_to_fp16=False)
        entry = LineageEntry(
            action="nncf_accuracy_int8",
            seconds=time.perf_counter() - start,
            config=self.plain(),
            details={
                **calibration.details(),
                "validation_images": len(whole),
                "score_float": scores[0],
                "score_quantized": scores[1],
                "score_kept": kept,
                "reached": scores[0] - kept <= self.max_drop,
                "quantizers": fake_quantizers(quantized),
                "ignored_types_absent": self.absent(edges),
            },
        )
        return artifact.derive(workdir, "model.xml", entry)

    def _validation(self, calibration: Calibration, data: StepData) -> list[Item]:
        """Feeds and labels of training images that do not calibrate."""
        everything = data.train.spread(len(calibration) + self.validation_size, data.seed)
        indices = np.setdiff1d(everything, calibration.indices)[: self.validation_size]
        if not len(indices):
            raise DataError(
                f"all {len(data.train)} training images calibrate, none is left to score",
                hint="lower calibration_size, or raise dataset.train_limit",
            )
        labels = data.train.labels()
        other = Calibration(data.train, calibration.names, indices)
        return [(feed, labels[i]) for feed, i in zip(other, indices, strict=True)]


def _right(scores: np.ndarray[Any, Any], label: Any) -> float:
    """Share of right answers of one sample: 0 or 1, or the share of its pixels.

    Args:
        scores: (1, classes, ...).
        label: A class, or one class per pixel; pixels of no class do not count.
    """
    truth = np.asarray(label)
    if scores.ndim != truth.ndim + 2 or scores.shape[2:] != truth.shape:
        raise UnsupportedError(
            f"nncf_accuracy_int8 needs one class per sample or pixel; the output has shape "
            f"{scores.shape}, a label {truth.shape}",
            hint="use compress=nncf_int8_full",
        )
    counts = (truth >= 0) & (truth < scores.shape[1])
    return float((scores[0].argmax(0) == truth)[counts].mean()) if counts.any() else 0.0
