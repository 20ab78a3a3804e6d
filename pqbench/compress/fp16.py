"""Half precision in the file: every float32 weight and value becomes float16.

ONNX through ONNX Runtime's converter (``onnxruntime.transformers.float16``), OpenVINO through
``openvino.save_model(compress_to_fp16=True)``, whose CPU plugin computes in float32 all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.compress.calibration import refuse_quantized
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.step import Kind, Step, StepData


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
            UnsupportedError: The ONNX model is quantized already.
        """
        start = time.perf_counter()
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
            onnx.save(convert_float_to_float16(source, keep_io_types=True), workdir / file)
        entry = LineageEntry("fp16", time.perf_counter() - start, {}, {"io_types": "float32"})
        return artifact.derive(workdir, file, entry)
