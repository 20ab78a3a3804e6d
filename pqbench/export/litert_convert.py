"""ONNX to LiteRT (``model.tflite``), by litert-torch in an environment of its own.

litert-torch needs another PyTorch than pqbench's. Its converter knows PyTorch alone, so an ONNX
file goes there through onnx2torch. https://ai.google.dev/edge/litert/models/convert_pytorch
"""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

from pqbench.assets.converters import LITERT, required, run_converter
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.export.static_shapes import static_shapes
from pqbench.nets.litert_net import LITERT_FILE

PIP_NAME = "'pqbench[litert]'"
PROGRAM = Path(__file__).with_name("litert_program.py")


def convert_litert(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert a float ``onnx`` artifact for one sample a call, weights in float32.

    Its inputs stay as they are (channels first); inside, the converter has channels last.

    Args:
        artifact: The ONNX model; its inputs must be float32 of fixed sizes, the batch aside.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``litert`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnavailableError: LiteRT or its converter is not installed.
        UnsupportedError: The converter refuses the model.
    """
    started = time.perf_counter()
    shapes = static_shapes(artifact, "LiteRT", 1)
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UnavailableError("LiteRT is not installed", hint=f"pip install {PIP_NAME}")
    versions = required(LITERT).versions()
    workdir.mkdir(parents=True, exist_ok=True)
    target = workdir / LITERT_FILE
    sizes = json.dumps([list(shape) for shape in shapes.values()])
    source = str(artifact.path.absolute())
    done = run_converter(LITERT, PROGRAM, [source, str(target.absolute()), sizes])
    if done.returncode != 0 or not target.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise UnsupportedError(
            f"LiteRT's converter refuses {artifact.path.name} (exit status {done.returncode}): "
            f"{lines[-1][:300] if lines else 'no reason given'}",
            hint="use backend=ort or backend=openvino for this model",
        )
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "litert-torch", "reader": "onnx2torch", "versions": versions},
    )
    return artifact.derive(workdir, LITERT_FILE, entry, "litert")
