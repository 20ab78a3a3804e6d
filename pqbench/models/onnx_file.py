"""A user's own ONNX file as the source model: checked, its input named, otherwise left alone.

Any opset, with a free or a fixed batch. The file is changed only where it must be: a single input
takes the prepared data's name, a 1000-way ImageNet output is cut to the data set's classes, and
where a recipe follows, an opset below 13 is raised (quantization per channel needs 13).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ParityError, UnsupportedError, WeightsError
from pqbench.core.files import file_sha256
from pqbench.models.settings import ModelSettings

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"
PER_CHANNEL_OPSET = 13
RAISED_OPSET = 17
EMBED_BYTES = 1_900_000_000  # protobuf holds 2 GB
IMAGENET = 1000
Batch = Mapping[str, npt.NDArray[Any]]


def prepare_onnx(
    model: ModelSettings,
    classes: Sequence[str],
    imagenet_indices: Sequence[int] | None,
    input_specs: tuple[TensorSpec, ...],
    example: Batch,
    folder: Path,
    upgrade: bool = False,
) -> Artifact:
    """Bring a user's ONNX file into ``folder`` as an ``onnx`` artifact.

    Args:
        model: Its name and file.
        classes: The data set's class names.
        imagenet_indices: Each class's index in a 1000-way ImageNet output; None for other classes.
        input_specs: The prepared data's inputs.
        example: A few samples of them, (n, ...); the file is run on them.
        folder: Where to write; created.
        upgrade: Raise an opset below 13, for the tools that quantize.

    Returns:
        The artifact. An input whose first size is a number has its batch fixed to it.

    Raises:
        WeightsError: The file is missing, truncated or no valid ONNX model.
        UnsupportedError: Its inputs or outputs do not fit the prepared data, or ONNX Runtime
            cannot run it.
        ParityError: The raised opset computes something else.
    """
    import onnx

    began = time.perf_counter()
    path = Path(str(model.file))
    graph = load_checked(path)
    opset = opset_of(graph)
    specs, renamed = match_inputs(graph, input_specs, path.name)
    feed = {spec.name: fit_batch(example[spec.name], spec) for spec in specs}
    before = _run(graph, feed, path.name)
    head = _fit_classes(graph, before[0], classes, imagenet_indices, path.name)
    raised = upgrade and opset < PER_CHANNEL_OPSET
    if raised:
        wanted = _run(graph, feed, path.name)
        graph = _raise_opset(graph, path.name)
        _same(wanted, _run(graph, feed, path.name), path.name)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        graph,
        folder / FILE,
        save_as_external_data=graph.ByteSize() > EMBED_BYTES,
        location="weights.bin",
    )
    entry = LineageEntry(
        action="source",
        seconds=time.perf_counter() - began,
        config={"model": model.name, "weights": "file"},
        details={
            "weights": "file",
            "file": path.name,
            "sha256": file_sha256(path),
            "opset": opset,
            "raised_to_opset": RAISED_OPSET if raised else None,
            "renamed_inputs": renamed,
            "head": head,
            "classes": len(classes),
            "fixed_batch": specs[0].shape[0],
        },
    )
    outputs = tuple(output.name for output in graph.graph.output)
    artifact = Artifact("onnx", folder, FILE, specs, outputs, (entry,))
    artifact.save()
    return artifact


def load_checked(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check its graph.

    Raises:
        WeightsError: It is missing, truncated, or no valid model.
    """
    import onnx

    decode_error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    if not path.is_file():
        raise WeightsError(f"no ONNX file {path}", hint="set model.file to a .onnx file")
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise ValueError("it holds no operators")
        onnx.checker.check_model(str(path))
    except (OSError, ValueError, decode_error, onnx.checker.ValidationError) as error:
        reason = str(error).strip().splitlines()
        raise WeightsError(
            f"{path} is no valid ONNX model: {reason[0][:300] if reason else type(error).__name__}",
            hint="is the file complete? Export or copy it again",
        ) from error
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def match_inputs(
    model: onnx.ModelProto, wanted: tuple[TensorSpec, ...], name: str
) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    """Find the prepared data's inputs among the model's; a single one is renamed.

    Args:
        model: Changed in place where an input is renamed.
        wanted: What the prepared data give.
        name: The file's name, for messages.

    Returns:
        The model's inputs in its own order, and the names changed (old to new).

    Raises:
        UnsupportedError: Another number of inputs, other names, types or sizes.
    """
    import onnx

    stored = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    renamed: dict[str, str] = {}
    if len(inputs) == len(wanted) == 1 and inputs[0].name != wanted[0].name:
        renamed[inputs[0].name] = wanted[0].name
        _rename(model, inputs[0].name, wanted[0].name)
    given = {spec.name: spec for spec in wanted}
    names = [value.name for value in inputs]
    if set(names) - set(given):
        raise UnsupportedError(
            f"{name} takes {', '.join(names)}, the prepared data have {', '.join(given)}",
            hint="export it with these input names, or choose another tokenizer",
        )
    specs = []
    for value in inputs:
        tensor = value.type.tensor_type
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        want = given[value.name]
        sizes = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        fits = len(sizes) == len(want.shape) and all(
            size in (None, have) for size, have in zip(sizes[1:], want.shape[1:], strict=True)
        )
        if dtype != want.dtype or not fits:
            raise UnsupportedError(
                f"{name}: input {value.name} is {dtype} {_shape(sizes)}, the prepared data are "
                f"{want.dtype} {_shape(want.shape)}",
                hint="set model.preprocess.crop and resize (images) or model.tokenizer.max_length "
                "(texts) to the file's sizes; images must be float32 (N, 3, H, W)",
            )
        specs.append(TensorSpec(value.name, (sizes[0] or None, *want.shape[1:]), dtype))
    return tuple(specs), renamed


def _shape(sizes: Sequence[int | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    graph = model.graph
    if any(new in (*node.input, *node.output) for node in graph.node):
        for node in graph.node:  # make room for the new name
            node.input[:] = [f"{new}_inner" if n == new else n for n in node.input]
            node.output[:] = [f"{new}_inner" if n == new else n for n in node.output]
    for value in graph.input:
        value.name = new if value.name == old else value.name
    for node in graph.node:
        node.input[:] = [new if n == old else n for n in node.input]


def fit_batch(array: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """Samples as many as the input's batch is fixed to; all of them where it is free."""
    fixed = spec.shape[0]
    return array if fixed is None else np.resize(array, (fixed, *array.shape[1:]))


def _run(model: onnx.ModelProto, feed: Batch, name: str) -> list[npt.NDArray[Any]]:
    import tempfile

    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        large = model.ByteSize() > EMBED_BYTES
        onnx.save(model, path, save_as_external_data=large, location="weights.bin")
        if large:
            onnx.load_external_data_for_model(model, folder)
        try:
            session = ort.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
            return [np.asarray(value) for value in session.run(None, dict(feed))]
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise UnsupportedError(
                f"ONNX Runtime cannot run {name}: {str(error).strip().splitlines()[0][:300]}",
                hint="does the file run outside of pqbench, on this kind of input?",
            ) from error


def _fit_classes(
    model: onnx.ModelProto,
    output: npt.NDArray[Any],
    classes: Sequence[str],
    imagenet_indices: Sequence[int] | None,
    name: str,
) -> str:
    """Cut a 1000-way output to the data set's classes, in place; says what was done."""
    import onnx

    if output.ndim >= 2 and output.shape[1] == len(classes):
        return "kept"
    if output.ndim < 2 or output.shape[1] != IMAGENET or imagenet_indices is None:
        raise UnsupportedError(
            f"{name}: the first output has shape {output.shape}, the data set has {len(classes)} "
            "classes",
            hint="the model must give one score per class, (N, classes, ...), for this data set",
        )
    graph = model.graph
    old = graph.output[0]
    inner = f"{old.name}_all_classes"
    for node in graph.node:
        node.output[:] = [inner if n == old.name else n for n in node.output]
        node.input[:] = [inner if n == old.name else n for n in node.input]
    indices = onnx.numpy_helper.from_array(np.asarray(imagenet_indices, np.int64), f"{inner}_index")
    graph.initializer.append(indices)
    graph.node.append(onnx.helper.make_node("Gather", [inner, indices.name], [old.name], axis=1))
    kind = old.type.tensor_type.elem_type
    batch = old.type.tensor_type.shape.dim[0] if old.type.tensor_type.shape.dim else None
    first = batch.dim_value or batch.dim_param or "batch" if batch is not None else "batch"
    graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info(old.name, kind, [first, len(classes)])
    )
    return "sliced"


def _raise_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.version_converter.convert_version(model, RAISED_OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise UnsupportedError(
            f"{name} uses opset {opset_of(model)}; quantization needs {PER_CHANNEL_OPSET}, and "
            f"onnx cannot raise it: {str(error).strip().splitlines()[0][:300]}",
            hint="export the model again with a newer opset, or measure it with compress=none",
        ) from error


def _same(wanted: Sequence[npt.NDArray[Any]], got: Sequence[npt.NDArray[Any]], name: str) -> None:
    for before, after in zip(wanted, got, strict=True):
        if before.shape != after.shape or not np.allclose(before, after, rtol=1e-3, atol=1e-4):
            raise ParityError(
                f"{name} computes something else after its opset was raised to {RAISED_OPSET}",
                hint="export the model again with a newer opset, or measure it with compress=none",
            )
