"""Half precision in the file: every float32 weight and value becomes float16.

ONNX through ONNX Runtime's converter (``onnxruntime.transformers.float16``), OpenVINO through
``openvino.save_model(compress_to_fp16=True)``, whose CPU plugin computes in float32 all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pqbench.compress.calibration import refuse_quantized
from pqbench.compress.onnx_ready import refuse_half, require_share
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets import onnx_graph

HALF = 10  # onnx.TensorProto.FLOAT16


@dataclass(frozen=True)
class Fp16(Step):
    """Convert to float16, inputs and outputs apart; halves the file.

    CPUs without float16 arithmetic convert to float32 and back at run time: smaller, not faster.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("openvino", "onnx")
    why_not: ClassVar[Mapping[Representation, str]] = {
        "torch": "half precision in PyTorch is the backend's option precision, not a file"
    }

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:  # noqa: ARG002
        """Convert and save; the result has the representation it was given.

        Raises:
            UnsupportedError: The ONNX model is quantized or in half precision already, or more than
                half of its parameters would stay as they are.
        """
        start = time.perf_counter()
        details: dict[str, Any] = {"io_types": "float32"}
        if artifact.representation == "openvino":
            import openvino

            file = "model.xml"
            model = openvino.Core().read_model(artifact.path)
            openvino.save_model(model, workdir / file, compress_to_fp16=True)
        else:
            import onnx
            from onnxruntime.transformers.float16 import convert_float_to_float16

            file = "model.onnx"
            source = onnx.load(artifact.path)
            refuse_quantized(source, "fp16")
            refuse_half(source, "fp16")
            half = convert_float_to_float16(onnx.load(artifact.path), keep_io_types=True)
            kept = onnx_graph.constants(half.graph).values()
            reached = sum(map(onnx_graph.numbers, (t for t in kept if t.data_type == HALF)))
            details["share_of_parameters"] = require_share(reached, source, "fp16", "converts")
            onnx_graph.save(half, workdir / file)
        entry = LineageEntry("fp16", time.perf_counter() - start, {}, details)
        return artifact.derive(workdir, file, entry)
