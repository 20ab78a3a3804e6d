"""A process that does nothing but load a model and run it, and how much memory it takes.

Run as ``python bare_session.py RUNTIME MODEL INPUT THREADS``: prints the high-water mark in MiB
since before the load. RUNTIME is ``onnxruntime``, ``openvino`` or ``torch`` (a pickled module's
folder is no deployment, so torch takes ``package.module:function`` and a safetensors file, with a
comma between them).
"""

import sys
from typing import Any

CALLS = 4


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123  # as bare as can be
        file.write("5")


def peak_mb() -> float:
    with open("/proc/self/status") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def onnxruntime(model: str, array: Any, threads: int) -> None:
    import onnxruntime as ort

    reset_peak()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for _ in range(CALLS):
        session.run(None, {name: array})


def openvino(model: str, array: Any, threads: int) -> None:
    import openvino as ov

    reset_peak()
    core = ov.Core()
    read = core.read_model(model)
    read.reshape(list(array.shape))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(read, "CPU", options).create_infer_request()
    for _ in range(CALLS):
        request.infer([array])


def torch(model: str, array: Any, threads: int) -> None:
    import importlib

    import torch
    from safetensors.torch import load_file

    target, _, weights = model.partition(",")
    module, _, name = target.partition(":")
    builder = getattr(importlib.import_module(module), name)
    torch.set_num_threads(threads)
    reset_peak()
    network = builder().eval()
    network.load_state_dict(load_file(weights))
    with torch.inference_mode():
        for _ in range(CALLS):
            network(torch.from_numpy(array))


if __name__ == "__main__":
    import numpy as np

    runtime, path, data, count = sys.argv[1:5]
    {"onnxruntime": onnxruntime, "openvino": openvino, "torch": torch}[runtime](
        path, np.load(data), int(count)
    )
    print(peak_mb())
