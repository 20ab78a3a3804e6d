"""ONNX to MNN's own format (``model.mnn``), by MNN's converter in a process of its own.

https://mnn-docs.readthedocs.io/en/latest/tools/convert.html
"""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.nets.static_shapes import static_shapes

MNN_FILE = "model.mnn"
_PROGRAM = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def convert_mnn(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert a float ``onnx`` artifact to MNN, weights in float32, the batch free.

    The converter ends its process (SIGABRT) on what it cannot read, Q/DQ pairs above all, so it has
    one of its own.

    Args:
        artifact: The ONNX model; its inputs must be float32 of fixed sizes, the batch aside.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``mnn`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnavailableError: MNN is not installed.
        UnsupportedError: The converter refuses the model or dies on it.
    """
    started = time.perf_counter()
    static_shapes(artifact, "MNN", 1)
    if importlib.util.find_spec("MNN") is None:
        raise UnavailableError("MNN is not installed", hint="pip install MNN")
    workdir.mkdir(parents=True, exist_ok=True)
    target = (workdir / MNN_FILE).absolute()
    source = artifact.path.absolute()
    given = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target)]
    with TemporaryDirectory() as scratch:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *given, "--bizCode", "pqbench"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=scratch,  # the tool leaves a file in its current folder
        )
    if done.returncode != 0 or not target.is_file():
        raise UnsupportedError(
            f"MNN's converter {_ending(done.returncode)} on {artifact.path.name}: "
            f"{_reason(done.stdout + done.stderr)}",
            hint="it reads float ONNX files of operators that it knows, no Q/DQ pairs; use "
            "backend=ort or backend=openvino for this model",
        )
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "mnnconvert"},
    )
    return artifact.derive(workdir, MNN_FILE, entry, "mnn")


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return "gives no model" if code == 0 else f"ends with status {code}"
    try:
        return f"is ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"is ended by signal {-code}"


def _reason(text: str) -> str:
    """The line of the converter's output that says what was wrong, or its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [s for s in lines if "what():" in s or "rror" in s or "nsupported" in s]
    return (telling or lines or ["no reason given"])[-1][:300]
