"""A user's own ONNX file as the source model: checked, brought into one form, otherwise kept.

Any opset, with a free or a fixed batch. What the file computes does not change, and that is
checked: the prepared model must give the file's own outputs. What changes: a single input takes the
prepared data's name, weights become initializers (see ``normalize``), the output that is scored is
the only one (see ``outputs``), and where a recipe follows, an opset below 13 is raised
(quantization per channel needs 13).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ParityError, UnsupportedError
from pqbench.core.files import file_sha256
from pqbench.core.parity import sqnr_db
from pqbench.models.onnx.constants import fix_inputs
from pqbench.models.onnx.inputs import match_inputs
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
from pqbench.models.onnx.outputs import scored_output
from pqbench.models.onnx.probe import fit_batch, observe
from pqbench.models.onnx.rows import wrap_rowless
from pqbench.models.settings import ModelSettings
from pqbench.nets import onnx_graph

if TYPE_CHECKING:
    import onnx

PER_CHANNEL_OPSET = 13
RAISED_OPSET = 17
SAME_DB = 60.0  # float32 rounding leaves 100 dB and more, float16 about 60
SAME_16_DB = 35.0


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
        model: Its name, task and file, and which input and output.
        classes: The data set's class names.
        imagenet_indices: Each class's index in a 1000-way ImageNet output; None for other classes.
        input_specs: The prepared data's inputs.
        example: A few samples of them, (n, ...); the file is run on them.
        folder: Where to write; created.
        upgrade: Raise an opset below 13, and store weights in float32 that the graph casts to it,
            for the tools that quantize and prune.

    Returns:
        The artifact. An input whose first size is a number has its batch fixed to it. The
        lineage's details hold ``notes`` for the record.

    Raises:
        WeightsError: The file is missing, truncated or no valid ONNX model.
        UnsupportedError: Its inputs or outputs do not fit the prepared data, or ONNX Runtime
            cannot run it.
        ParityError: The prepared model computes something else than the file.
    """
    began = time.perf_counter()
    path = Path(str(model.file))
    graph = read_file(path)
    opset = opset_of(graph)
    fixed = fix_inputs(graph, model.constants or {}, path.name)
    changes = repair(graph)
    specs, renamed = match_inputs(graph, input_specs, path.name, model.input)
    if specs[0].shape[0] == 1:
        one = {spec.name: example[spec.name][:1] for spec in specs}
        fixed += wrap_rowless(graph, one, path.name)
    # Sizes of 0 are taken literally by ONNX Runtime: only the repaired graph runs.
    repaired = "sizes_made_free" in changes or bool(fixed)
    given = {} if repaired else {new: old for old, new in renamed.items()}
    seen = observe(
        make_session(graph if repaired else path, path.name),
        graph,
        specs,
        {spec.name: example[spec.name] for spec in specs},
        {spec.name: given.get(spec.name, spec.name) for spec in specs},
        path.name,
    )
    specs = tuple(TensorSpec(s.name, (seen.batch, *s.shape[1:]), s.dtype) for s in specs)
    raised = upgrade and opset < PER_CHANNEL_OPSET
    if raised:
        graph = raise_opset(graph, path.name)
    changes.update(normalize(graph, path.name, grow=upgrade))
    feed = {s.name: fit_batch(example[s.name], seen.batch or len(example[s.name])) for s in specs}
    if not seen.random:
        names = list(seen.values)
        got = run(make_session(graph, path.name), feed, path.name, names)
        same_outputs(seen.values, dict(zip(names, got, strict=True)), path.name)
    scored = scored_output(
        graph,
        seen.values,
        classes,
        imagenet_indices,
        model.task,
        model.output,
        path.name,
        seen.lost_rows,
    )
    if not np.isfinite(seen.values[scored.given]).all():
        raise UnsupportedError(
            f"{path.name} gives infinities or not-a-number in output {scored.given} on these "
            "inputs, in ONNX Runtime without optimization",
            hint="are model.preprocess.mean and std those of the training? Does the file run "
            "outside of pqbench?",
        )
    fix_batch(graph, specs)
    check(graph, path)
    run(make_session(graph, path.name), feed, path.name)
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
            "renamed_inputs": renamed,
            "normalized": changes,
            "output": scored.given,
            "scores": scored.kind,
            "head": scored.head,
            "classes": len(classes),
            "fixed_batch": seen.batch,
            "random": seen.random,
            "notes": [*fixed, *seen.notes, *scored.notes, *change_notes(changes, path.name)],
        },
    )
    artifact = Artifact("onnx", folder, FILE, specs, (scored.name,), (entry,))
    artifact.save()
    return artifact


def change_notes(changes: Mapping[str, Any], name: str) -> list[str]:
    """One line for the record where the file's form was changed."""
    words = {
        "weights_listed_as_inputs": "{} weights taken off the list of inputs",
        "constant_nodes_moved": "{} Constant nodes made initializers",
        "constants_folded": "{} nodes that depend on constants computed once",
        "functions_inlined": "{} functions inlined",
        "branches_inlined": "{} If nodes of known condition replaced by their branch",
        "sizes_made_free": "{} sizes of -1 or 0 made free",
    }
    said = [text.format(changes[key]) for key, text in words.items() if key in changes]
    return [f"{name} was normalised, same outputs: {', '.join(said)}"] if said else []


def fix_batch(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> None:
    """Declare the batch that the file runs at."""
    for spec, value in zip(specs, model.graph.input, strict=False):
        if spec.shape[0] is not None and value.type.tensor_type.shape.dim:
            size = value.type.tensor_type.shape.dim[0]
            if not size.HasField("dim_value"):
                size.Clear()
                size.dim_value = spec.shape[0]
                for output in model.graph.output:
                    shape = output.type.tensor_type.shape
                    if shape.dim:
                        shape.dim[0].Clear()
                        shape.dim[0].dim_value = spec.shape[0]


def raise_opset(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Convert to opset 17 by onnx's own converter.

    Raises:
        UnsupportedError: It cannot.
    """
    import onnx

    try:
        return onnx.version_converter.convert_version(model, RAISED_OPSET)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise UnsupportedError(
            f"{name} uses opset {opset_of(model)}; quantization needs {PER_CHANNEL_OPSET}, and "
            f"onnx cannot raise it: {str(error).strip().splitlines()[0][:300]}",
            hint="export the model again with a newer opset, or measure it with compress=none",
        ) from error


def same_outputs(wanted: Batch, got: Batch, name: str) -> None:
    """Check the prepared model against the file's own outputs.

    Args:
        wanted: The file's outputs by name.
        got: The prepared model's, on the same inputs.
        name: The file's name, for messages.

    Raises:
        ParityError: They differ by more than rounding.
    """
    for output, values in wanted.items():
        least = SAME_16_DB if values.dtype == np.float16 else SAME_DB
        if values.shape != got[output].shape:
            ratio = -np.inf
        elif values.dtype.kind != "f":
            continue
        else:
            finite = np.isfinite(values) & np.isfinite(got[output])
            ratio = sqnr_db(np.where(finite, values, 0), np.where(finite, got[output], 0))
        if ratio < least:
            raise ParityError(
                f"{name} computes something else after it was normalised: output {output} at "
                f"{ratio:.0f} dB, at least {least:.0f} dB is asked",
                hint="please report it; the same model exported anew may work",
            )
