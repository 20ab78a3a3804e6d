"""PyTorch to ONNX with a free batch size, by torch.export (``dynamo=True``).

The file is made to be worked on further: names are the artifact's, batch normalization is folded
into convolutions by the exporter, shapes are inferred anew (the exporter's own notes on shapes make
ONNX Runtime's quantizer fail), and traces of the source code, which hold paths of the machine that
exported, are removed: equal models give equal files.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import UnsupportedError
from pqbench.nets.layers import as_tensors
from pqbench.nets.watch import BRANCHES, lines_of

if TYPE_CHECKING:
    import onnx

ONNX_FILE = "model.onnx"
OPSET = 20
EXAMPLE_BATCH = 2


def export_onnx(
    artifact: Artifact, workdir: Path, batch: Mapping[str, npt.NDArray[Any]]
) -> Artifact:
    """Export a ``torch`` artifact to ``model.onnx`` (float32, opset 20, dynamic batch).

    Args:
        artifact: The network to export.
        workdir: Folder for the result; created if missing.
        batch: At least one sample per input, (n, ...); only shapes and types matter.

    Returns:
        The ``onnx`` artifact. Its parity is not checked here; ``convert`` does both.

    Raises:
        UnsupportedError: torch.export cannot trace the network, or it fixes the batch size, or
            inputs or outputs are not as the artifact says.
    """
    import torch

    from pqbench.nets.checkpoint import load_network

    started = time.perf_counter()
    network = load_network(artifact).float()
    examples = as_tensors({k: _two_samples(v) for k, v in batch.items()}, artifact)
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in examples)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                network,
                examples,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=[spec.name for spec in artifact.inputs],
                output_names=list(artifact.outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        branches = lines_of(network, examples, BRANCHES)
        where = f": it branches on its data at {', '.join(branches[:3])}" if branches else ""
        raise UnsupportedError(
            f"the network cannot be exported to ONNX{where}: {_first_line(error)}",
            hint="write the branch with torch.where or torch.cond, or use backend=torch"
            if branches
            else "torch.export must be able to trace it with a free batch size",
        ) from error
    if program is None:
        raise UnsupportedError("the network cannot be exported to ONNX: the exporter gave nothing")
    model = clean(program.model_proto)
    _check_interface(model, artifact)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / ONNX_FILE).write_bytes(model.SerializeToString(deterministic=True))
    entry = LineageEntry(
        action="export",
        seconds=time.perf_counter() - started,
        config={"opset": OPSET, "exporter": "torch.export"},
        details={"opset": OPSET, "nodes": len(model.graph.node)},
    )
    return artifact.derive(workdir, ONNX_FILE, entry, "onnx")


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop source-code traces and stale shapes, and infer shapes anew. Changes ``model``."""
    import onnx

    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for function in model.functions:
        for item in (function, *function.node):
            del item.metadata_props[:]
            item.doc_string = ""
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress, warnings and log lines from the terminal while it works.

    The garbage collector rests meanwhile: it walks the exporter's millions of objects again and
    again, a fifth of the time of exporting MobileNetV3-Large.
    """
    collecting = gc.isenabled()
    gc.disable()
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "onnxscript")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if collecting:
            gc.enable()
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _two_samples(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Two samples: torch.export takes a size of 1 in an example for a constant."""
    return np.resize(array[:EXAMPLE_BATCH], (EXAMPLE_BATCH, *array.shape[1:]))


def _check_interface(model: onnx.ModelProto, artifact: Artifact) -> None:
    inputs = [value.name for value in model.graph.input]
    wanted = [spec.name for spec in artifact.inputs]
    if inputs != wanted:
        raise UnsupportedError(f"the exported model takes {inputs} instead of {wanted}")
    outputs = [value.name for value in model.graph.output]
    if outputs != list(artifact.outputs):
        raise UnsupportedError(
            f"the network gives {len(outputs)} outputs ({', '.join(outputs)}), "
            f"the artifact names {list(artifact.outputs)}"
        )
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_param:
            raise UnsupportedError(
                f"the exported model fixes the batch size of '{value.name}' to {dims[0].dim_value}",
                hint="the network's forward must not turn the batch size into a constant",
            )


def _first_line(error: BaseException) -> str:
    """The innermost cause in one line: exporters wrap the reason in pages of advice."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = str(cause).strip() or type(cause).__name__
    return text.splitlines()[0][:300]
