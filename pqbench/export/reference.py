"""Reference outputs of a model in each representation: plain float32 runs on the CPU.

These sessions exist to be right, not fast: no graph optimization that could change a result where
the runtime lets it be turned off. What is timed and scored is a backend's session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError
from pqbench.machine.cpu import usable_cores
from pqbench.nets.layers import as_tensors, flatten_outputs

# Samples computed at once. Without optimization a runtime keeps every layer's output: 32 images of
# 224 px through FCN-ResNet50 took more than 16 GB.
PIECE = 8
Batch = Mapping[str, npt.NDArray[Any]]
Outputs = list[npt.NDArray[Any]]


def torch_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of a ``torch`` artifact: eager, float32, CPU. Arrays (n, ...)."""
    import torch

    from pqbench.nets.checkpoint import load_network

    network = load_network(artifact).float()
    parts = []
    with torch.inference_mode():
        for feeds, count in _feeds(artifact, batch):
            value = network(*as_tensors(feeds, artifact))
            parts.append([tensor.float().numpy()[:count] for tensor in flatten_outputs(value)])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def onnx_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of an ``onnx`` artifact: ONNX Runtime on the CPU, graph as written. Arrays (n, ...).

    Graph optimization is off, so a Q/DQ model is computed as its definition says.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(artifact.path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    names = list(artifact.outputs)
    parts = [
        [np.asarray(v)[:count] for v in session.run(names, feeds)]
        for feeds, count in _feeds(artifact, batch)
    ]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def output_positions(names: Sequence[set[str]], wanted: Sequence[str]) -> list[int]:
    """Where a model's wanted outputs are among all of its outputs; all, if names were lost."""
    found = [next((i for i, n in enumerate(names) if w in n), None) for w in wanted]
    known = [i for i in found if i is not None]
    return known if len(known) == len(found) else list(range(len(names)))


def openvino_outputs(artifact: Artifact, batch: Batch) -> Outputs:
    """Outputs of an ``openvino`` artifact: CPU, float32 asked and read back. Arrays (n, ...).

    Low-precision transformations are off (the plug-in's internal switch ``LP_TRANSFORMS_MODE``, for
    its own tests), so a quantized model is computed as its graph says, each quantizer in float.
    With integer kernels the plug-in moves and drops quantizers: on a pruned MobileNetV3 that is
    1 dB from the graph as written, and nearer to the float model than the graph is. That
    difference belongs to the accuracy of the session that is timed, not to the translation.

    Raises:
        UnsupportedError: OpenVINO does not compute in float32 here.
    """
    import openvino as ov

    compiled = ov.Core().compile_model(
        str(artifact.path),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": usable_cores(),
            "LP_TRANSFORMS_MODE": "NO",
        },
    )
    precision = compiled.get_property("INFERENCE_PRECISION_HINT")
    if precision != ov.Type.f32:
        raise UnsupportedError(
            f"OpenVINO computes in {precision.get_type_name()} though float32 was asked, "
            "so the conversion cannot be checked"
        )
    request = compiled.create_infer_request()
    chosen = output_positions([o.get_names() for o in compiled.outputs], artifact.outputs)
    parts = []
    for feeds, count in _feeds(artifact, batch):
        request.infer(feeds, share_inputs=False)
        tensors = (request.get_output_tensor(i) for i in chosen)
        parts.append([tensor.data[:count].copy() for tensor in tensors])
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _feeds(artifact: Artifact, batch: Batch) -> Iterator[tuple[dict[str, npt.NDArray[Any]], int]]:
    """The batch in pieces of :data:`PIECE` samples, or of the size that the model is fixed to.

    Yields:
        Inputs by name, the last piece filled up, and how many of its samples count.
    """
    arrays = {spec.name: np.asarray(batch[spec.name]) for spec in artifact.inputs}
    total = len(next(iter(arrays.values())))
    size = artifact.inputs[0].shape[0] or min(total, PIECE)
    for start in range(0, total, size):
        piece = {name: array[start : start + size] for name, array in arrays.items()}
        count = len(next(iter(piece.values())))
        yield {n: np.resize(a, (size, *a.shape[1:])) for n, a in piece.items()}, count
