"""Dynamic INT8 quantization with ONNX Runtime: integer weights, activations measured as they come.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#dynamic-quantization
Meant for matrix products and recurrent layers; convolutions become many times slower by it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pqbench.compress.calibration import refuse_quantized
from pqbench.compress.onnx_ready import pre_process, tool_refusals
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData

ACCEPTED = ("MatMul", "Gemm", "LSTM", "Attention", "EmbedLayerNormalization", "Gather")
WEIGHTS = {"int8": "QInt8", "uint8": "QUInt8"}
INTEGER = ("MatMulInteger", "DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization")
FILE = "model.onnx"


@dataclass(frozen=True)
class OrtDynamic(Step):
    """Store weights as integers and quantize activations anew at each inference; no calibration.

    Attributes:
        op_types: Operator types to quantize, of ``ACCEPTED``.
        weight: ``int8`` or ``uint8`` weights.
        per_channel: One weight scale per output channel.
        reduce_range: 7-bit weights, against overflow on CPUs without VNNI.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("onnx",)
    final: ClassVar[str] = "no other runtime runs ONNX Runtime's dynamic integer operators"
    limits: ClassVar[Sequence[str]] = (
        "models without Linear or recurrent layers: nothing to quantize (use ort_int8)",
    )
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "ONNX Runtime's tool works on ONNX files; PyTorch cannot load what it writes"
    }

    op_types: Sequence[str] = ("MatMul", "Gemm", "LSTM", "Attention")
    weight: str = "int8"
    per_channel: bool = True
    reduce_range: bool = False

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise ConfigError(
                f"ort_dynamic.weight '{self.weight}' is unknown",
                hint=f"choose one of {', '.join(WEIGHTS)}",
            )
        unknown = [name for name in self.op_types if name not in ACCEPTED]
        if unknown or not self.op_types:
            raise ConfigError(
                f"ort_dynamic.op_types {list(self.op_types)} cannot be quantized dynamically",
                hint=f"choose among {', '.join(ACCEPTED)}; for convolutions use ort_int8",
            )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Quantize, save ``model.onnx``.

        Raises:
            UnsupportedError: The model is quantized already, or nothing in it could be quantized.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        start = time.perf_counter()
        refuse_quantized(onnx.load(artifact.path, load_external_data=False), "ort_dynamic")
        target = workdir / FILE
        with TemporaryDirectory(dir=workdir) as scratch:
            ready = Path(scratch) / FILE
            symbolic = pre_process(artifact.path, ready, "ort_dynamic")
            with tool_refusals("ort_dynamic", "try nncf_weights, or ort_int8"):
                quantize_dynamic(
                    ready,
                    target,
                    op_types_to_quantize=list(self.op_types),
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                    weight_type=QuantType[WEIGHTS[self.weight]],
                )
        counts = Counter(node.op_type for node in onnx.load(target).graph.node)
        integer = {name: counts[name] for name in INTEGER if counts[name]}
        if not integer:
            raise UnsupportedError(
                "ort_dynamic found nothing to quantize in this model",
                hint="it needs Linear or recurrent layers with constant weights; for convolutions "
                "use ort_int8",
            )
        entry = LineageEntry(
            action="ort_dynamic",
            seconds=time.perf_counter() - start,
            config={**asdict(self), "op_types": list(self.op_types)},
            details={"integer_nodes": integer, "symbolic_shapes": symbolic},
        )
        return artifact.derive(workdir, FILE, entry)
