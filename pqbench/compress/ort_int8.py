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

from pqbench.compress.bias_correction import correct_biases
from pqbench.compress.calibration import Calibration, check_size, draw, refuse_quantized
from pqbench.compress.equalize import equalize
from pqbench.compress.histograms import write_ranges
from pqbench.compress.int8_blocks import name_nodes
from pqbench.compress.integer_gates import integer_gates, pool_means
from pqbench.compress.onnx_ready import pre_process, tool_refusals
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets import onnx_graph

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
BIAS_IMAGES = 128
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
        method: How an activation's range follows from its values: ``mean_minmax``: each image's
            extremes, averaged, so that a few extreme images do not set everybody's step (6.0 points
            down to 0.8 on a small MobileNetV3); ``minmax`` of all images, the tool's own default;
            ``entropy`` (smallest divergence of the histograms); ``percentile``.
        percentile: Share of the values kept by ``percentile``, in percent.
        per_channel: One weight scale per output channel; per tensor costs several points of top-1.
        activation: ``uint8`` (fast on x86) or ``int8``.
        symmetric: Zero-point 0 for activations. TensorRT needs ``activation=int8`` with it.
        quantize_bias: Store biases as int32. TensorRT needs them left in float.
        reduce_range: 7-bit weights, against overflow on CPUs without VNNI. The YAML asks the CPU
            (``cpu_saturates_int8``), so the resolved configuration says which it was.
        op_types: Operator types to quantize; null takes all that ONNX Runtime can. One that ONNX
            does not have is refused.
        exclude: Names of nodes to leave in float.
        bias_correction: Set the biases so that each layer keeps the mean that it has in float, on
            128 of the calibration images (``compress.bias_correction``).
        integer_gates: Compute hard-sigmoid, hard-swish and global means as integer kernels
            (``compress.integer_gates``) where the tool leaves them in float.
        equalize: Make the ranges of channels alike between convolutions with a ReLU or nothing
            between them (``compress.equalize``).
    """

    name: ClassVar[str] = "ort_int8"

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "ONNX Runtime's tool works on ONNX files; PyTorch cannot load what it writes"
    }

    calibration_size: int = 300
    method: str = "mean_minmax"
    percentile: float = 99.999
    per_channel: bool = True
    activation: str = "uint8"
    symmetric: bool = False
    quantize_bias: bool = True
    reduce_range: bool = False
    op_types: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    bias_correction: bool = False
    integer_gates: bool = True
    equalize: bool = False

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        for key, allowed in (("method", METHODS), ("activation", ACTIVATIONS)):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"{self.name}.{key} '{value}' is unknown",
                    hint=f"choose one of {', '.join(allowed)}",
                )
        if not 50.0 < self.percentile <= 100.0:
            raise ConfigError(f"percentile must lie in (50, 100], got {self.percentile}")

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.onnx``.

        Raises:
            UnsupportedError: The model is quantized already, or nothing in it could be quantized.
        """
        import onnx

        start = time.perf_counter()
        refuse_quantized(onnx.load(artifact.path, load_external_data=False), self.name)
        calibration = draw(artifact, data, self.calibration_size)
        target = workdir / FILE
        with TemporaryDirectory(dir=workdir) as scratch:
            ready = Path(scratch) / FILE
            symbolic = self.prepare(artifact.path, ready)
            exclude = self._excluded(onnx.load(ready, load_external_data=False))
            corrected = self.quantize(ready, target, calibration, exclude, data.threads)
        counts = count_quantizers(target)
        if not counts["quantize_nodes"]:
            raise UnsupportedError(
                f"{self.name} found nothing to quantize in this model",
                hint="it needs convolutions or matrix products with constant weights",
            )
        told = {**calibration.details(), "symbolic_shapes": symbolic, **counts, **corrected}
        return self.finish(artifact, workdir, start, told)

    def finish(
        self, artifact: Artifact, workdir: Path, start: float, details: dict[str, Any]
    ) -> Artifact:
        """The artifact of the file in ``workdir``; ``start`` as of ``time.perf_counter``, in s."""
        entry = LineageEntry(
            action=self.name,
            seconds=time.perf_counter() - start,
            config=self.plain(),
            details=details,
        )
        return artifact.derive(workdir, FILE, entry)

    def prepare(self, source: Path, target: Path) -> bool:
        """Write the float file that is quantized; gives whether its symbolic shapes are known."""
        import onnx

        symbolic = pre_process(source, target, self.name)
        model = onnx.load(target)
        changed = name_nodes(model)
        changed += equalize(model) if self.equalize else 0
        changed += pool_means(model) if self.integer_gates else 0
        if changed:
            onnx_graph.save(model, target)
        return symbolic

    def quantize(
        self,
        ready: Path,
        target: Path,
        calibration: Calibration,
        exclude: Sequence[str],
        threads: int,
        ranges: Path | None = None,
    ) -> dict[str, Any]:
        """Quantize a prepared file, with the corrections that are asked for.

        Args:
            ready: Of :meth:`prepare`.
            target: Q/DQ file to write.
            calibration: Images that give the ranges.
            exclude: Names of nodes left in float.
            threads: Of ONNX Runtime, for the correction of biases.
            ranges: File that keeps the ranges: read if it exists, else written.

        Returns:
            What was corrected, for the lineage.

        Raises:
            UnsupportedError: The tool cannot quantize this graph.
        """
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )

        types = None if self.op_types is None else list(self.op_types)
        # The histogram methods print their progress, line after line, to standard output.
        with TemporaryDirectory(dir=target.parent) as scratch, redirect_stdout(StringIO()):
            if self.method in ("entropy", "percentile"):
                ranges = ranges or Path(scratch) / "ranges.json"
                if not ranges.exists():
                    way = METHODS[self.method]
                    write_ranges(ready, ranges, lambda: calibration, way, self.percentile, types)
            with tool_refusals(self.name, HINT):
                quantize_static(
                    ready,
                    target,
                    _Reader(calibration),
                    calibration_cache_path=ranges,
                    quant_format=QuantFormat.QDQ,
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                    op_types_to_quantize=types,
                    nodes_to_exclude=list(exclude),
                    activation_type=QuantType[ACTIVATIONS[self.activation]],
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod[METHODS[self.method]],
                    extra_options=self._options(),
                )
        done: dict[str, Any] = {}
        if self.integer_gates:
            model = onnx.load(target)
            done["integer_gates"] = integer_gates(model)
            onnx_graph.save(model, target)
        if self.bias_correction:
            # Evenly spread: the images lie class by class in many data sets.
            count = min(BIAS_IMAGES, len(calibration))
            places = [place * len(calibration) // count for place in range(count)]
            feeds = [calibration.feed(place) for place in places]
            done |= correct_biases(ready, target, feeds, threads)
        return done

    def plain(self) -> dict[str, Any]:
        """The settings, JSON-ready."""
        types = None if self.op_types is None else list(self.op_types)
        return {**asdict(self), "op_types": types, "exclude": list(self.exclude)}

    def _excluded(self, model: onnx.ModelProto) -> list[str]:
        """Names of the nodes left in float.

        Raises:
            ConfigError: The model has no such node, or nobody has such an operator type.
        """
        from onnx.defs import get_all_schemas
        from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry

        known = {schema.name for schema in get_all_schemas()} | {*IntegerOpsRegistry, *QDQRegistry}
        strange = set(self.op_types or ()) - known - {node.op_type for node in model.graph.node}
        if strange:
            raise ConfigError(
                f"{self.name}.op_types: '{min(strange)}' is no operator type of ONNX",
                hint="types are written as an ONNX viewer shows them: Conv, Gemm, MatMul",
            )
        unknown = set(self.exclude) - {node.name for node in model.graph.node}
        if unknown:
            raise ConfigError(
                f"{self.name}.exclude: the model has no node '{min(unknown)}'",
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


def count_quantizers(path: Path) -> dict[str, int]:
    """QuantizeLinear and DequantizeLinear nodes of an ONNX file, for the lineage."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    counts = Counter(node.op_type for node in model.graph.node)
    return {
        "quantize_nodes": counts["QuantizeLinear"],
        "dequantize_nodes": counts["DequantizeLinear"],
    }
