"""A file as it is, whatever it computes: any inputs, all outputs, nothing scored.

Detectors, segmenters, recognisers: pqbench does not know what their outputs mean. They are timed,
compressed, and their outputs compared with those of the uncompressed file.

One sample is one row of every input where all inputs leave their first size free, or fix it to 1.
Where they do not (a recurrent state of (2, batch, 128), a scalar, (3, H, W) alone), one sample is
one call: each input gets a leading axis of 1, which is taken off again inside, at no cost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import UnsupportedError
from pqbench.core.files import file_sha256
from pqbench.models.onnx.constants import fix_inputs
from pqbench.models.onnx.inputs import Declared, declared, give_name, shape_text
from pqbench.models.onnx.load import (
    FILE,
    Batch,
    check,
    make_session,
    opset_of,
    read_file,
    repair,
    run,
)
from pqbench.models.onnx.normalize import normalize
from pqbench.models.onnx.prepare import (
    PER_CHANNEL_OPSET,
    RAISED_OPSET,
    change_notes,
    fix_batch,
    raise_opset,
    same_outputs,
)
from pqbench.models.onnx.probe import Observed, observe
from pqbench.models.onnx.rows import squeeze, wrap_output, wrap_rowless
from pqbench.models.settings import ModelSettings
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

FREE = 64  # taken for a free size that is no image's side
TENSORS = "tensors"


def safe_name(name: str) -> str:
    """An input's name that can be a file's: ``gpu_0/data:0`` becomes ``gpu_0_data_0``."""
    return re.sub(r"[^\w.-]", "_", name)


def is_batched(inputs: Sequence[Declared]) -> bool:
    """Whether the first axis of every input counts samples."""
    first = {value.sizes[0] if value.sizes else 0 for value in inputs}
    return first in ({None}, {1})


def sample_specs(
    path: Path, side: int, constants: Sequence[str] = ()
) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """One sample of each of a file's inputs.

    Args:
        path: The ONNX file; its weights are not read.
        side: Taken for the free sides of images, in pixels.
        constants: Inputs that are fed the same for every sample (``model.constants``).

    Returns:
        Names as in the file, shapes without the axis that counts samples, and what was assumed.

    Raises:
        UnsupportedError: An input is no tensor, or its rank is not declared.
    """
    graph = read_file(path, weights=False)
    repair(graph)
    inputs = [value for value in declared(graph) if value.name not in constants]
    odd = [value for value in inputs if not value.dtype or value.sizes is None]
    if odd or not inputs:
        raise UnsupportedError(
            f"{path.name}: input {odd[0] if odd else '(none)'} has no tensor shape",
            hint="export the model with tensors of a declared rank as inputs",
        )
    batched = is_batched(inputs)
    specs, assumed = [], []
    for value in inputs:
        skipped = 1 if batched else 0
        sizes = list(value.sizes or ())[skipped:]
        shape = tuple(_size(value, axis, side) for axis in range(skipped, len(value.sizes or ())))
        if None in sizes:
            assumed.append(f"{value.name} {shape_text(shape)}")
        specs.append(TensorSpec(value.name, shape, value.dtype))
    notes = [f"free sizes of a sample were taken as {', '.join(assumed)}"] if assumed else []
    return tuple(specs), notes


def _size(value: Declared, axis: int, side: int) -> int:
    """A size, or what is taken for one that is free."""
    size = (value.sizes or ())[axis]
    if size is not None:
        return size
    symbol = value.symbols[axis].lower() if value.symbols else ""
    if "batch" in symbol or symbol in ("n", "b", "bs"):
        return 1
    if len(value.sizes or ()) == 4 and value.dtype.startswith(("float", "uint8")):
        return side
    return FREE


def prepare_tensors(
    model: ModelSettings,
    input_specs: Sequence[TensorSpec],
    example: Batch,
    folder: Path,
    upgrade: bool = False,
) -> Artifact:
    """Bring a user's ONNX file into ``folder`` with all its inputs and outputs.

    Args:
        model: Its name and file.
        input_specs: The prepared data's inputs, (None, ...).
        example: At least 3 samples of them.
        folder: Where to write; created.
        upgrade: As in :func:`pqbench.models.onnx.prepare.prepare_onnx`.

    Raises:
        WeightsError: The file is missing, truncated or no valid ONNX model.
        UnsupportedError: The prepared data are not what it takes, or ONNX Runtime cannot run it.
        ParityError: The prepared model computes something else than the file.
    """
    began = time.perf_counter()
    path = Path(str(model.file))
    graph = read_file(path)
    opset = opset_of(graph)
    fixed = fix_inputs(graph, model.constants or {}, path.name)
    changes = repair(graph)
    inputs = declared(graph)
    batched = is_batched(inputs)
    specs = _match(inputs, input_specs, batched, path.name)
    for value, spec in zip(inputs, specs, strict=True):
        if value.name != spec.name:
            give_name(graph, value.name, spec.name)
    notes = [] if batched else [
        f"{path.name} has inputs without an axis of samples: one sample is one call"
    ]  # fmt: skip
    if not batched:
        _wrap(graph, specs)
    notes += _drop_sequences(graph)
    samples = {spec.name: example[spec.name] for spec in specs}
    if batched and specs[0].shape[0] == 1:
        notes += wrap_rowless(graph, {k: v[:1] for k, v in samples.items()}, path.name)
    same = {spec.name: spec.name for spec in specs}
    try:
        seen = observe(make_session(graph, path.name), graph, specs, samples, same, path.name)
    except UnsupportedError as error:
        raise UnsupportedError(
            error.message,
            hint="if made-up inputs do not suit it, give real ones: dataset=npz "
            "dataset.root=PATH.npz, one array per input",
        ) from error
    specs = tuple(TensorSpec(s.name, (seen.batch, *s.shape[1:]), s.dtype) for s in specs)
    raised = upgrade and opset < PER_CHANNEL_OPSET
    if raised:
        graph = raise_opset(graph, path.name)
    changes.update(normalize(graph, path.name, grow=upgrade))
    feed = {name: array[: seen.batch or len(array)] for name, array in samples.items()}
    session = make_session(graph, path.name)
    names = list(seen.values)
    if not seen.random:
        same_outputs(
            seen.values, dict(zip(names, run(session, feed, path.name, names), strict=True)),
            path.name,
        )  # fmt: skip
    stable = _stable(session, samples, seen, names, path.name)
    left_out = [value.name for value in graph.graph.output if value.name not in stable]
    if left_out:
        notes.append(
            f"not compared, for their size changes from sample to sample or they have no axis of "
            f"samples: output {', '.join(left_out)}"
        )
    fix_batch(graph, specs)
    check(graph, path)
    folder.mkdir(parents=True, exist_ok=True)
    onnx_graph.save(graph, folder / FILE)
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
            "normalized": changes,
            "scores": TENSORS,
            "fixed_batch": seen.batch,
            "random": seen.random,
            "notes": [*fixed, *notes, *seen.notes, *change_notes(changes, path.name)],
        },
    )
    artifact = Artifact("onnx", folder, FILE, specs, tuple(stable), (entry,))
    artifact.save()
    return artifact


def _match(
    inputs: Sequence[Declared], given: Sequence[TensorSpec], batched: bool, name: str
) -> tuple[TensorSpec, ...]:
    """The prepared array of each input.

    Raises:
        UnsupportedError: One is missing, or has another type or shape.
    """
    arrays = {spec.name: spec for spec in given}
    if len(inputs) == len(given) == 1:
        arrays = {safe_name(inputs[0].name): given[0]}
    specs = []
    for value in inputs:
        spec = arrays.get(safe_name(value.name))
        if spec is None:
            raise UnsupportedError(
                f"{name} takes {', '.join(v.name for v in inputs)}, the data have "
                f"{', '.join(arrays)}",
                hint="name the arrays of the .npz file like the model's inputs",
            )
        sizes = list(value.sizes or ())[1 if batched else 0 :]
        have = spec.shape[1:]
        fits = len(have) == len(sizes) and all(
            want in (None, size) for want, size in zip(sizes, have, strict=True)
        )
        if spec.dtype != value.dtype or not fits:
            raise UnsupportedError(
                f"{name}: one sample of input {value.name} is {value.dtype} {shape_text(sizes)}, "
                f"the data have {spec.dtype} {shape_text(have)}",
                hint="give arrays of that type, the samples along the first axis",
            )
        first = value.sizes[0] if batched and value.sizes else 1
        specs.append(TensorSpec(spec.name, (first, *have), spec.dtype))
    return tuple(specs)


def _wrap(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """Give every input and tensor output a leading axis of 1."""
    graph = model.graph
    nodes = []
    for value, spec in zip(graph.input, specs, strict=True):
        inner = onnx_graph.free_name(graph, f"{spec.name}_one")
        onnx_graph.rename(graph, {spec.name: inner})
        nodes.append(squeeze(model, "Squeeze", spec.name, inner))
        value.name = spec.name
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in spec.shape:
            shape.dim.add().dim_value = size or 1
    ends = [wrap_output(model, v) for v in graph.output
            if v.type.WhichOneof("value") == "tensor_type"]  # fmt: skip
    onnx_graph.replace_nodes(graph, [*nodes, *graph.node, *ends])


def _drop_sequences(model: onnx.ModelProto) -> list[str]:
    """Take outputs that are no tensors off; says which."""
    graph = model.graph
    odd = [v for v in graph.output if v.type.WhichOneof("value") not in ("tensor_type", None)]
    for value in odd:
        graph.output.remove(value)
    if not graph.output:
        raise UnsupportedError("the model gives sequences alone, no tensor")
    return [f"output {v.name} is a sequence and was taken off" for v in odd]


def _stable(
    session: Any, samples: Batch, seen: Observed, names: Sequence[str], name: str
) -> list[str]:
    """Outputs whose shape is the same for every sample; they can be compared.

    Raises:
        UnsupportedError: There is none.
    """
    size = seen.batch or 1
    count = len(next(iter(samples.values())))
    shapes: dict[str, set[tuple[int, ...]]] = {n: set() for n in names}
    for start in range(0, count - size + 1, size):
        piece = {k: v[start : start + size] for k, v in samples.items()}
        for output, value in zip(names, run(session, piece, name, names), strict=True):
            shapes[output].add(value.shape[1:])
    found = [n for n in names if len(shapes[n]) == 1]
    if not found:
        raise UnsupportedError(
            f"{name}: every output changes its size from sample to sample ({', '.join(names)})",
            hint="export the network without its post-processing (non-maximum suppression)",
        )
    return found
