"""PyTorch to LiteRT (``model.tflite``), by litert-torch in an environment of its own.

litert-torch needs another PyTorch than pqbench's: the network goes there as an exported program.
https://ai.google.dev/edge/litert/models/convert_pytorch
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pqbench.assets.converters import LITERT, last_line, required, run_program
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.nets.litert_net import LITERT_FILE
from pqbench.nets.static_shapes import static_shapes

PIP_NAME = "'pqbench[litert]'"
PROGRAM = Path(__file__).with_name("litert_program.py")


def convert_litert(artifact: Artifact, workdir: Path) -> Artifact:
    """Convert a float ``torch`` artifact for one sample a call, weights in float32.

    Its inputs stay as they are (channels first); inside, the converter has channels last.

    Args:
        artifact: The PyTorch model; its inputs must be float32 of fixed sizes, the batch aside.
        workdir: Folder for the result; created if missing.

    Returns:
        The ``litert`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnavailableError: LiteRT or its converter is not installed.
        UnsupportedError: The network cannot be exported, or the converter refuses it.
    """
    started = time.perf_counter()
    shapes = static_shapes(artifact, "LiteRT", 1)
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise UnavailableError("LiteRT is not installed", hint=f"pip install {PIP_NAME}")
    versions = required(LITERT).versions()
    workdir.mkdir(parents=True, exist_ok=True)
    target = workdir / LITERT_FILE
    sizes = json.dumps([list(shape) for shape in shapes.values()])
    with tempfile.TemporaryDirectory() as between:
        source = Path(between) / "network.pt2"
        _save_exported(artifact, shapes, source)
        done = run_program(LITERT, PROGRAM, [str(source), str(target.absolute()), sizes])
    if done.returncode != 0 or not target.is_file():
        raise UnsupportedError(
            f"LiteRT's converter refuses {artifact.path.name} (exit status {done.returncode}): "
            f"{last_line(done.stderr)}",
            hint="use backend=ort or backend=openvino for this model",
        )
    entry = LineageEntry(
        action="convert",
        seconds=time.perf_counter() - started,
        config={"converter": "litert-torch", "versions": versions},
    )
    return artifact.derive(workdir, LITERT_FILE, entry, "litert")


def _save_exported(artifact: Artifact, shapes: Mapping[str, tuple[int, ...]], target: Path) -> None:
    """Write the network as a program of core operators.

    Raises:
        UnsupportedError: ``torch.export`` cannot trace it.
    """
    import torch

    from pqbench.nets.checkpoint import load_network

    network = load_network(artifact).float().eval()
    example = tuple(torch.zeros(shape) for shape in shapes.values())
    try:
        program = torch.export.export(network, example).run_decompositions()
    except Exception as error:  # whatever the exporter raises
        raise UnsupportedError(
            f"this network cannot be exported for LiteRT: {str(error).splitlines()[0][:300]}",
            hint="use backend=torch, backend=ort or backend=openvino for this model",
        ) from error
    torch.export.save(program, target)
