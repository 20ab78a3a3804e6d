"""How long a torch network takes on the runtime that it is meant for, while it is being made."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

Example = tuple["Tensor", ...]
WARM_UP = 3
RUNS = 20


def latency_s(network: nn.Module, example: Example, runtime: str, threads: int) -> float:
    """Least of 20 forward passes of one sample, in seconds.

    The least is what the network itself takes: what else the machine does can only add to it.

    Args:
        network: In eval mode, on the CPU.
        example: A batch for each of its inputs; its first sample is run.
        runtime: One of ``RUNTIMES``.
        threads: Threads of the runtime.
    """
    run = RUNTIMES[runtime](network, tuple(tensor[:1] for tensor in example), threads)
    times = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[WARM_UP:])


def _torch(network: nn.Module, one: Example, threads: int) -> Callable[[], object]:  # noqa: ARG001
    import torch

    def run() -> object:
        with torch.inference_mode():
            return network(*one)

    return run


def _ort(network: nn.Module, one: Example, threads: int) -> Callable[[], object]:
    import onnxruntime
    import torch

    names = [f"input_{i}" for i in range(len(one))]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter that traces is the quick one; the file is timed and thrown away.
        warnings.simplefilter("ignore")
        file = Path(folder) / "model.onnx"
        torch.onnx.export(network, one, file, input_names=names, dynamo=False)
        content = file.read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(names, one, strict=True)}
    return lambda: session.run(None, feed)


def _openvino(network: nn.Module, one: Example, threads: int) -> Callable[[], object]:
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=one)
    for port, tensor in zip(model.inputs, one, strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(list(tensor.shape)))
    model.validate_nodes_and_infer_types()
    compiled = openvino.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request, feed = compiled.create_infer_request(), [tensor.numpy() for tensor in one]
    return lambda: request.infer(feed)


RUNTIMES: Mapping[str, Callable[[nn.Module, Example, int], Callable[[], object]]] = {
    "ort": _ort,
    "openvino": _openvino,
    "torch": _torch,
}
"""Runtimes on which a network can be timed while it is pruned, in FP32."""
