"""From one representation to the next, checked against the source before anyone uses it."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.errors import UnsupportedError
from pqbench.core.parity import FLOAT_SQNR_DB, QDQ_SQNR_DB, check, compare
from pqbench.export.edge_reference import (
    executorch_outputs,
    litert_outputs,
    mnn_outputs,
    ncnn_outputs,
)
from pqbench.export.executorch_convert import convert_executorch
from pqbench.export.litert_convert import convert_litert
from pqbench.export.mnn_convert import convert_mnn
from pqbench.export.ncnn_convert import convert_ncnn
from pqbench.export.onnx_export import export_onnx
from pqbench.export.openvino_convert import convert_openvino
from pqbench.export.reference import onnx_outputs, openvino_outputs, torch_outputs

FLOAT_VARYING_SQNR_DB = 20.0
AGREEMENT = 0.97
# Outputs are compared in float64, a few copies at a time. A map of 1,000 classes at 224 px takes
# 200 MB a sample.
OUTPUT_BYTES = 256 * 2**20
Batch = Mapping[str, npt.NDArray[Any]]
Make = Callable[[Artifact, Path], Artifact]
Compute = Callable[[Artifact, Batch], list[npt.NDArray[Any]]]
# By representation: what makes it of an ONNX model, and what it computes.
FROM_ONNX: Mapping[Representation, tuple[Make, Compute]] = {
    "openvino": (convert_openvino, openvino_outputs),
    "ncnn": (convert_ncnn, ncnn_outputs),
    "mnn": (convert_mnn, mnn_outputs),
}
# The same of a PyTorch network.
FROM_TORCH: Mapping[Representation, tuple[Make, Compute]] = {
    "executorch": (convert_executorch, executorch_outputs),
    "litert": (convert_litert, litert_outputs),
}


def convert(
    artifact: Artifact,
    to: Representation,
    batch: Mapping[str, npt.NDArray[Any]],
    workdir: Path,
    min_sqnr_db: float | None = None,
    min_agreement: float = AGREEMENT,
) -> Artifact:
    """Convert an artifact and prove that the result computes what the source computes.

    ``torch`` goes to ``onnx``, ``executorch`` and ``litert``; ``onnx`` to ``openvino``, ``ncnn``
    and ``mnn``; and ``torch`` to these by way of ``onnx`` with both conversions checked.

    Args:
        artifact: The source model.
        to: Representation wanted. If the artifact has it already, it is returned as it is.
        batch: Real inputs, (n, ...) per input name; parity is computed on all of them, or on as
            many (at least 2) as have outputs of 256 MiB.
        workdir: Folder for the result; created if missing.
        min_sqnr_db: Least SQNR in dB; None takes 40 for float models and 8 for models with Q/DQ
            nodes, whose quantizers may round the other way. Float models must also reach
            20 dB in what depends on the input.
        min_agreement: Least share of samples (0..1) whose highest output stays, near ties aside.

    Returns:
        The new artifact; its last lineage entry holds ``details["parity"]``.

    Raises:
        ParityError: The result computes something else.
        UnsupportedError: There is no such conversion, or a tool refuses the model.
    """
    source = artifact.representation
    quantized = False
    if source == to:
        return artifact
    if source == "torch" and to in FROM_ONNX:
        with tempfile.TemporaryDirectory() as between:
            onnx = convert(artifact, "onnx", batch, Path(between), min_sqnr_db, min_agreement)
            return convert(onnx, to, batch, workdir, min_sqnr_db, min_agreement)
    if (source, to) == ("torch", "onnx"):
        new = export_onnx(artifact, workdir, batch)
        batch = _affordable(partial(onnx_outputs, new), batch)
        reference, got = torch_outputs(artifact, batch), onnx_outputs(new, batch)
    elif source == "torch" and to in FROM_TORCH:
        make, outputs = FROM_TORCH[to]
        new = make(artifact, workdir)
        batch = _affordable(partial(torch_outputs, artifact), batch)
        reference, got = torch_outputs(artifact, batch), outputs(new, batch)
    elif source == "onnx" and to in FROM_ONNX:
        make, outputs = FROM_ONNX[to]
        try:
            new = make(artifact, workdir)
            batch = _affordable(partial(onnx_outputs, artifact), batch)
            reference, got = onnx_outputs(artifact, batch), outputs(new, batch)
        except UnsupportedError as error:
            if not _readable_and_quantized(artifact):
                raise
            # Some files of Q/DQ pairs are converted to what then cannot be opened or run.
            raise UnsupportedError(
                f"{error.message} (this file is quantized, and its Q/DQ pairs are not read there)",
                hint=error.hint or "use backend=ort or backend=openvino for this model",
            ) from error
        quantized = is_quantized(artifact)
    else:
        raise UnsupportedError(f"a model cannot be converted from {source} to {to}")
    least = QDQ_SQNR_DB if quantized else FLOAT_SQNR_DB
    parity = check(
        compare(
            f"{source} to {to}",
            reference,
            got,
            least if min_sqnr_db is None else min_sqnr_db,
            min_agreement,
            None if quantized else FLOAT_VARYING_SQNR_DB,
            quantized,
        )
    )
    entry = new.lineage[-1]
    entry = replace(entry, details={**entry.details, "parity": asdict(parity)})
    new = replace(new, lineage=(*new.lineage[:-1], entry))
    new.save()
    return new


def _affordable(
    outputs: Callable[[Mapping[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]],
    batch: Mapping[str, npt.NDArray[Any]],
) -> dict[str, npt.NDArray[Any]]:
    """The first samples, as many as have outputs that memory holds; one is run to see."""
    one = sum(value.nbytes for value in outputs({k: v[:1] for k, v in batch.items()}))
    count = max(2, OUTPUT_BYTES // max(one, 1))
    return {name: values[:count] for name, values in batch.items()}


def is_quantized(artifact: Artifact) -> bool:
    """Whether an ``onnx`` artifact computes with quantized values (Q/DQ or integer operators)."""
    import onnx

    model = onnx.load(artifact.path, load_external_data=False)
    return any("Quantize" in n.op_type or "Integer" in n.op_type for n in model.graph.node)


def _readable_and_quantized(artifact: Artifact) -> bool:
    """The same, and False of a file that is cut off."""
    # protobuf ships no types
    decode_error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    try:
        return is_quantized(artifact)
    except decode_error:
        return False
