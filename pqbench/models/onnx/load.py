"""Reading a user's ONNX file: what is no model is named, what other exporters write is repaired."""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import UnsupportedError, WeightsError
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
LFS = b"version https://git-lfs"
Batch = Mapping[str, npt.NDArray[Any]]
STATUS = re.compile(r"^.*?(?:Status Message:|: [A-Z_]+ :)\s*", re.DOTALL)
LOWER = (
    'python -c "import onnx; m = onnx.load({file!r}); m.ir_version = {version}; '
    "onnx.save(m, 'lower.onnx')\""
)


def read_file(path: Path, weights: bool = True) -> onnx.ModelProto:
    """Read an ONNX file; its graph is not checked yet.

    Args:
        path: The file.
        weights: Also read its external data.

    Raises:
        WeightsError: It is missing, truncated, no ONNX, or newer than the installed onnx.
    """
    import onnx

    decode_error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    if not path.is_file():
        raise WeightsError(f"no ONNX file {path}", hint="set model.file to a .onnx file")
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise WeightsError(
                f"{path} is a Git LFS pointer, not the model", hint="fetch it with git lfs pull"
            )
    try:
        model = onnx.load(path, load_external_data=weights)
        if not model.graph.node:
            raise ValueError("it holds no operators")
    except (OSError, ValueError, decode_error, onnx.checker.ValidationError) as error:
        raise WeightsError(
            f"{path} is no valid ONNX model: {_line(error)}",
            hint="is the file complete, with its external data? Export or copy it again",
        ) from error
    if model.ir_version > onnx.IR_VERSION:
        raise WeightsError(
            f"{path} is written in IR version {model.ir_version}, the installed onnx "
            f"{onnx.__version__} reads up to {onnx.IR_VERSION}",
            hint="update onnx and onnxruntime, or lower the number, which most files allow: "
            + LOWER.format(file=str(path), version=10),
        )
    return model


def load_checked(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check its graph as it is.

    Raises:
        WeightsError: It is missing, truncated, or no valid model.
    """
    model = read_file(path)
    check(model, path)
    return model


def check(model: onnx.ModelProto, path: Path) -> None:
    """Check a graph by onnx's own checker.

    Raises:
        WeightsError: It is no valid model.
    """
    import onnx

    if model.ByteSize() > onnx_graph.EMBED_BYTES:
        return  # the checker takes no more than 2 GB; ONNX Runtime will say what is wrong
    try:
        onnx.checker.check_model(model)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise WeightsError(
            f"{path} is no valid ONNX model: {_line(error)}",
            hint="onnx.checker.check_model says the same; export it again",
        ) from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in onnx_graph.STANDARD), 1)


def repair(model: onnx.ModelProto) -> dict[str, Any]:
    """Write down in the usual way what some exporters write in another; nothing is computed.

    Sizes of -1 and 0 become free sizes, weights are taken off the list of inputs (there they can be
    overridden at every call, so that no runtime may fold or fuse them), unused inputs of a
    training graph go.

    Args:
        model: Changed in place.

    Returns:
        What was changed, for the lineage.
    """
    graph = model.graph
    changes: dict[str, Any] = {}
    free = 0
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type" or not value.type.tensor_type.HasField("shape"):
            continue
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value <= 0:
                size.Clear()
                size.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"
                free += 1
    if free:
        changes["sizes_made_free"] = free
    stored = {tensor.name for tensor in graph.initializer}
    listed = [value for value in graph.input if value.name in stored]
    for value in listed:
        graph.input.remove(value)
    if listed:
        changes["weights_listed_as_inputs"] = len(listed)
        # Before IR version 4 every initializer had to be listed.
        model.ir_version = max(model.ir_version, 4)
    return changes


def make_session(model: onnx.ModelProto | Path, name: str) -> Any:
    """An ONNX Runtime session without optimizations, on the CPU.

    Args:
        model: The model, or the path of the file.
        name: The file's name, for messages.

    Raises:
        UnsupportedError: ONNX Runtime refuses it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        if isinstance(model, Path):
            return ort.InferenceSession(
                str(model), sess_options=options, providers=["CPUExecutionProvider"]
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            onnx_graph.save(model, path)
            return ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise refused(error, name) from error


def run(session: Any, feed: Batch, name: str, outputs: Sequence[str] | None = None) -> list[Any]:
    """Outputs on some inputs: arrays, or lists of arrays where the output is a sequence.

    Raises:
        UnsupportedError: ONNX Runtime cannot compute them.
    """
    try:
        got = session.run(None if outputs is None else list(outputs), dict(feed))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise refused(error, name) from error
    return [value if isinstance(value, list) else np.asarray(value) for value in got]


def refused(error: Exception, name: str) -> UnsupportedError:
    """ONNX Runtime's complaint in one line, its end rather than its beginning."""
    text = " ".join(str(error).split())
    if "Unsupported model IR version" in text:
        limit = re.search(r"max supported IR version: (\d+)", text)
        version = int(limit.group(1)) if limit else 10
        return UnsupportedError(
            f"ONNX Runtime cannot run {name}: its IR version is too new (up to {version})",
            hint="update onnxruntime, or lower the number, which most files allow: "
            + LOWER.format(file=name, version=version),
        )
    if "is under development" in text and "opset" in text.lower():
        return UnsupportedError(
            f"ONNX Runtime cannot run {name}: {text[-300:]}",
            hint="update onnxruntime, or export it with an older opset (opset_version=17)",
        )
    if "is not a registered function/op" in text:
        return UnsupportedError(
            f"ONNX Runtime cannot run {name}: it has an operator of its own: {text[-200:]}",
            hint="custom operators need their own library, which pqbench does not load",
        )
    message = STATUS.sub("", text) or text
    return UnsupportedError(
        f"ONNX Runtime cannot run {name}: {message[:400]}",
        hint="does the file run outside of pqbench, on this kind of input?",
    )
