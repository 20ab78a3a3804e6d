"""ONNX to OpenVINO's intermediate representation (``model.xml`` and ``model.bin``)."""

from __future__ import annotations

import time
from pathlib import Path

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnsupportedError

OPENVINO_FILE = "model.xml"


def convert_openvino(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert an ``onnx`` artifact, float or with Q/DQ nodes, to OpenVINO.

    Weights keep their precision (no compression to float16), the batch size stays free.

    Args:
        artifact: The ONNX model. Models in QOperator form (``QLinearConv``) are refused by
            OpenVINO; use the Q/DQ form.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``openvino`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnsupportedError: OpenVINO cannot read the model; the message carries its reason.
    """
    import openvino as ov

    started = time.perf_counter()
    try:
        model = ov.Core().read_model(artifact.path)
    except RuntimeError as error:
        reason = next((s for s in map(str.strip, str(error).splitlines()[::-1]) if s), "no reason")
        raise UnsupportedError(
            f"OpenVINO cannot read {artifact.path.name}: {reason[:300]}",
            hint="quantize in the Q/DQ form, or in OpenVINO itself",
        ) from error
    workdir.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, workdir / OPENVINO_FILE, compress_to_fp16=False)
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"compress_to_fp16": False},
        details={"operations": len(model.get_ops())},
    )
    return artifact.derive(workdir, OPENVINO_FILE, entry, "openvino")
