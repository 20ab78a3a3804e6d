"""Is it the machine whose speed changes, or the model's session?

A fixed piece of arithmetic, without memory traffic or threads, and a network on ONNX Runtime and on
OpenVINO take turns for a while. If all three slow down together, the level of every latency
belongs to the machine (its clock, or what its host gives it), and only paired ratios can be known
well.

    python scripts/bench/timing/level.py --minutes 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import openvino as ov
import torch
import torchvision

SLICE_S = 0.25


def arithmetic() -> int:
    """About a millisecond of dependent integer operations."""
    value = 12345
    for _ in range(20_000):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return value


def sessions(threads: int) -> dict[str, Callable[[], object]]:
    """What takes turns, by name."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_large().eval()
    image = torch.rand(1, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(network, (image,), path, dynamo=True, verbose=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        first = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        second = ov.Core().compile_model(path, "CPU", hints)
    feed = {first.get_inputs()[0].name: image.numpy()}
    return {
        "arithmetic": arithmetic,
        "ONNX Runtime": lambda: first.run(None, feed),
        "OpenVINO": lambda: second(image.numpy()),
    }


def median_ms(call: Callable[[], object]) -> float:
    """Median time of a call in ms over a slice of time."""
    end = time.perf_counter() + SLICE_S
    times: list[int] = []
    while not times or time.perf_counter() < end:
        begin = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - begin)
    return float(np.median(times)) / 1e6


def main() -> None:
    """Take turns, then print levels, spread and correlation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    calls = sessions(arguments.threads)
    rows: list[list[float]] = []
    end = time.perf_counter() + 60 * arguments.minutes
    while time.perf_counter() < end:
        rows.append([median_ms(call) for call in calls.values()])
    levels = np.log(np.array(rows))
    together = np.corrcoef(levels.T)[0]
    print(f"{len(rows)} turns of {SLICE_S} s each")
    print("| what | median [ms] | 5 to 95 % of turns [ms] | spread | with the arithmetic |")
    print("| --- | --- | --- | --- | --- |")
    for index, name in enumerate(calls):
        low, middle, high = np.exp(np.percentile(levels[:, index], [5, 50, 95]))
        print(
            f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {levels[:, index].std():.1%} | "
            f"r = {together[index]:.2f} |"
        )
    for index, name in enumerate(list(calls)[1:], start=1):
        ratio = levels[:, index] - levels[:, 0]
        print(f"{name} over the arithmetic: spread {ratio.std():.1%}")


if __name__ == "__main__":
    main()
