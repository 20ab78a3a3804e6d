"""Static INT8 quantization with ONNX Runtime's own tool; the file also runs in OpenVINO.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.compress.calibration import Calibration, check_size, draw, refuse_quantized
from pqbench.compress.histograms import write_ranges
from pqbench.compress.onnx_ready import pre_process, tool_refusals
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData

if TYPE_CHECKING:
    import onnx

METHODS = {
    "minmax": "MinMax",
    "mean_minmax": "MinMax",
    "entropy": "Entropy",
    "percentile": "Percentile",
}
ACTIVATIONS = {"uint8": "QUInt8", "int8": "QInt8"}
FILE = "model.onnx"
HINT = (
    "compress.ort_int8.quantize_bias=false or per_channel=false may avoid it; "
    "nncf_int8 is another tool"
)


@dataclass(frozen=True)
class OrtInt8(Step):
    """Insert quantize/dequantize pairs (Q/DQ) with ranges from calibration images.

    The defaults make all convolutions of a CNN run as integer kernels in ONNX Runtime on x86.

    Attributes:
        calibration_size: Training images to calibrate with.
        method: How an activation's range follows from its values: ``minmax`` of all images;
            ``mean_minmax``: each image's extremes, averaged, so that a few extreme images do not
            set everybody's step (3.0 points down to 1.7 on MobileNetV3 and solar cells);
            ``entropy`` (smallest divergence of the histograms); ``percentile``.
        percentile: Share of the values kept by ``percentile``, in percent.
        per_channel: One weight scale per output channel; per tensor costs several points of top-1.
        activation: ``uint8`` (fast on x86) or ``int8``.
        symmetric: Zero-point 0 for activations. TensorRT needs ``activation=int8`` with it.
        quantize_bias: Store biases as int32. TensorRT needs them left in float.
        reduce_range: 7-bit weights, against overflow on CPUs without VNNI. The YAML asks the CPU
            (``cpu_saturates_int8``), so the resolved configuration says which it was.
        op_types: Operator types to quantize; null takes all that ONNX Runtime can.
        exclude: Names of nodes to leave in float.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "ONNX Runtime's tool works on ONNX files; PyTorch cannot load what it writes"
    }

    calibration_size: int = 300
    method: str = "minmax"
    percentile: float = 99.999
    per_channel: bool = True
    activation: str = "uint8"
    symmetric: bool = False
    quantize_bias: bool = True
    reduce_range: bool = False
    op_types: Sequence[str] | None = None
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        for key, allowed in (("method", METHODS), ("activation", ACTIVATIONS)):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"ort_int8.{key} '{value}' is unknown",
                    hint=f"choose one of {', '.join(allowed)}",
                )
        if not 50.0 < self.percentile <= 100.0:
            raise ConfigError(f"ort_int8.percentile must lie in (50, 100], got {self.percentile}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.onnx``.

        Raises:
            UnsupportedError: The model is quantized already, or nothing in it could be quantized.
        """
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        start = time.perf_counter()
        refuse_quantized(onnx.load(artifact.path, load_external_data=False), "ort_int8")
        calibration = draw(artifact, data, self.calibration_size)
        target = workdir / FILE
        # The histogram methods print their progress, line after line, to standard output.
        with TemporaryDirectory(dir=workdir) as scratch, redirect_stdout(StringIO()):
            ready = Path(scratch) / FILE
            symbolic = pre_process(artifact.path, ready, "ort_int8")
            types = None if self.op_types is None else list(self.op_types)
            ranges = None
            if self.method in ("entropy", "percentile"):
                ranges = Path(scratch) / "ranges.json"
                write_ranges(
                    ready,
                    ranges,
                    lambda: calibration,
                    METHODS[self.method],
                    self.percentile,
                    types,
                )
            with tool_refusals("ort_int8", HINT):
                quantize_static(
                    ready,
                    target,
                    _Reader(calibration),
                    calibration_cache_path=ranges,
                    quant_format=QuantFormat.QDQ,
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                    op_types_to_quantize=types,
                    nodes_to_exclude=self._excluded(onnx.load(ready, load_external_data=False)),
                    activation_type=QuantType[ACTIVATIONS[self.activation]],
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod[METHODS[self.method]],
                    extra_options=self._options(),
                )
        counts = Counter(node.op_type for node in onnx.load(target).graph.node)
        if not counts["QuantizeLinear"]:
            raise UnsupportedError(
                "ort_int8 found nothing to quantize in this model",
                hint="it needs convolutions or matrix products with constant weights",
            )
        entry = LineageEntry(
            action="ort_int8",
            seconds=time.perf_counter() - start,
            config={
                **asdict(self),
                "op_types": None if self.op_types is None else list(self.op_types),
                "exclude": list(self.exclude),
            },
            details={
                **calibration.details(),
                "symbolic_shapes": symbolic,
                "quantize_nodes": counts["QuantizeLinear"],
                "dequantize_nodes": counts["DequantizeLinear"],
            },
        )
        return artifact.derive(workdir, FILE, entry)

    def _excluded(self, model: onnx.ModelProto) -> list[str]:
        unknown = set(self.exclude) - {node.name for node in model.graph.node}
        if unknown:
            raise ConfigError(
                f"ort_int8.exclude: the model has no node '{min(unknown)}'",
                hint="names are those of the pre-processed ONNX graph, as a viewer shows them",
            )
        return list(self.exclude)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "ActivationSymmetric": self.symmetric,
            "QuantizeBias": self.quantize_bias,
        }
        if self.method == "mean_minmax":
            # With all images in one pass, ONNX Runtime's moving average is the plain mean.
            options["CalibMovingAverage"] = True
        return options


class _Reader:
    """ONNX Runtime's reader protocol (``CalibrationDataReader``) over a ``Calibration``."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.set_range(0, len(calibration))

    def __len__(self) -> int:
        return len(self.calibration)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.position, self.end = start_index, end_index

    def get_next(self) -> dict[str, Any] | None:
        if self.position >= self.end:
            return None
        self.position += 1
        return self.calibration.feed(self.position - 1)
