"""ONNX to ncnn by pnnx: ``model.ncnn.param`` (the graph) and ``model.ncnn.bin`` (the weights).

https://github.com/pnnx/pnnx
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from pqbench.assets.installed import package_folder
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.nets.ncnn_net import BIN_FILE, PARAM_FILE, layers, unknown_layers
from pqbench.nets.static_shapes import static_shapes


def convert_ncnn(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert a float ``onnx`` artifact to ncnn, weights in float32.

    pnnx is a program of its own and runs as one. Left alone it would store the weights in float16.

    Args:
        artifact: The ONNX model; its inputs must be float32 of fixed sizes, the batch aside.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``ncnn`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnavailableError: pnnx is not installed.
        UnsupportedError: pnnx cannot convert the model, or leaves operators that ncnn has not.
    """
    started = time.perf_counter()
    shapes = static_shapes(artifact, "ncnn", 1)
    program = pnnx()
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(artifact.path, folder / "model.onnx")
        sizes = ",".join(f"[{','.join(map(str, shape))}]" for shape in shapes.values())
        done = subprocess.run(
            [str(program), "model.onnx", f"inputshape={sizes}", "fp16=0"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        param, weights = folder / PARAM_FILE, folder / BIN_FILE
        if done.returncode != 0 or not param.is_file() or not weights.is_file():
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise UnsupportedError(
                f"pnnx cannot convert {artifact.path.name} (exit status {done.returncode}): "
                f"{lines[-1][:300] if lines else 'no reason given'}",
                hint="use backend=ort or backend=openvino for this model",
            )
        unknown = unknown_layers(param)
        if unknown:
            raise UnsupportedError(
                f"ncnn has no layer for {', '.join(unknown)} of {artifact.path.name}",
                hint="ncnn takes float models of its own layers; use backend=ort or "
                "backend=openvino for this model",
            )
        for file in (param, weights):
            shutil.copy(file, workdir / file.name)
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "pnnx", "fp16": False},
        details={"layers": len(layers(workdir / PARAM_FILE))},
    )
    return artifact.derive(workdir, PARAM_FILE, entry, "ncnn")


def pnnx() -> Path:
    """The program in the package of that name.

    Raises:
        UnavailableError: It is not installed.
    """
    folder = package_folder("pnnx")
    for name in ("pnnx", "pnnx.exe"):
        if folder is not None and (folder / name).is_file():
            return folder / name
    raise UnavailableError(
        "pnnx, which converts models for ncnn, is not installed",
        hint="pip install ncnn pnnx",
    )
