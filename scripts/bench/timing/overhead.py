"""What pqbench adds to a call: its p50 against a bare loop over the same session, in turns.

Both loops run in one process over one loaded session, in alternating blocks of random order. The
bare loop calls the runtime's own object and nothing else. Target: within 2 %, or within 5
microseconds for the small model. PyTorch's own tool, ``torch.utils.benchmark``, takes turns with
them. With ``--benchmark-app`` OpenVINO's own tool (synchronous, same
threads and precision) runs between two of pqbench's measurements of the large model; its report
rounds to 10 microseconds, too coarse for the small one.

    python scripts/bench/timing/overhead.py [--pairs 40] [--threads 2] [--benchmark-app]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bench_models import SIZES, backend_node, make_model, make_split, print_table

from pqbench.machine import device_lock as lock
from pqbench.machine.cpu import usable_cores
from pqbench.measure.intervals import ratio_interval
from pqbench.workers.child import child_environment

LOADS = {"torch": "torch", "ort": "onnx", "openvino": "openvino"}


def bare_call(backend: str, session: Any) -> Callable[[dict[str, Any]], object]:
    """The runtime's own call on the session's own objects, with nothing around it."""
    if backend == "torch":
        import torch

        network = session._network

        def call(batch: dict[str, Any]) -> object:
            with torch.inference_mode():
                return network(torch.from_numpy(batch["input"])).numpy()

        return call
    if backend == "ort":
        raw = session._session
        return lambda batch: raw.run(None, batch)
    request = session._requests[1]
    return lambda batch: request.infer(batch, share_inputs=True)


def bare_loop(call: Callable[[Any], object], batches: list[Any], seconds: float) -> list[int]:
    """What a user would write."""
    clock = time.perf_counter_ns
    times = []
    end = clock() + int(seconds * 1e9)
    i = 0
    while clock() < end:
        batch = batches[i % len(batches)]
        i += 1
        start = clock()
        call(batch)
        times.append(clock() - start)
    return times


def torch_timer(call: Callable[[Any], object], batches: list[Any], threads: int) -> Any:
    """``torch.utils.benchmark``'s timer of the same call; it measures as long as it is told to."""
    from torch.utils.benchmark import Timer

    return Timer("call(batch)", globals={"call": call, "batch": batches[0]}, num_threads=threads)


def compare(
    backend: str, model: str, folder: str, pairs: int, block_s: float, threads: int
) -> dict[str, float]:
    """Alternate pqbench's block and the bare loop on one session; medians in microseconds."""
    from pqbench.measure.denormals import flush_denormals

    flushed = flush_denormals()
    from pqbench.measure.session_host import open_host

    root = Path(folder)
    host = open_host(
        backend_node(backend, threads),
        str(root / model / LOADS[backend]),
        str(root / f"split-{model}"),
        [1],
        pool_mb=16,
        seed=0,
        flushed=flushed,
    )
    if backend == "torch":
        import torch

        torch.set_num_threads(threads)
    call, batches = bare_call(backend, host.session), host._views(1)
    rng = np.random.default_rng(0)
    timer = torch_timer(call, batches, threads) if backend == "torch" else None
    sides = ["ours", "bare", *(["tool"] if timer is not None else [])]
    medians: dict[str, list[float]] = {side: [] for side in sides}
    for pair in range(pairs + 2):
        found = {}
        for side in rng.permutation(sides):
            if side == "ours":
                found["ours"] = host.block(1, block_s, 1, 1_000_000, 0.0)["ns"]
            elif side == "bare":
                found["bare"] = bare_loop(call, batches, block_s)
            elif timer is not None:
                found["tool"] = 1e9 * timer.blocked_autorange(min_run_time=block_s).median
        if pair >= 2:  # the first two warm up
            for side in sides:
                medians[side].append(float(np.median(found[side])) / 1e3)
    host.close()
    result = beside(medians["ours"], medians["bare"])
    if timer is not None:
        result |= {f"tool_{k}": v for k, v in beside(medians["ours"], medians["tool"]).items()}
    return result


def beside(ours: list[float], other: list[float]) -> dict[str, float]:
    """Medians of ours and of another's blocks, in microseconds, and their paired ratio."""
    ratio, low, high = ratio_interval([a / b for a, b in zip(ours, other, strict=True)])
    return {
        "ours": float(np.median(ours)),
        "bare": float(np.median(other)),
        "difference": float(np.median(np.subtract(ours, other))),
        "ratio": ratio,
        "low": low,
        "high": high,
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def benchmark_app(
    model: Path, size: int, seconds: int, threads: int, precision: str = "f32"
) -> float:
    """Median of OpenVINO's own tool in microseconds, from the JSON report that it writes."""
    with tempfile.TemporaryDirectory() as report:
        shape = f"[1,3,{size},{size}]"
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "benchmark_app"), "-m", str(model)),
                *("-d", "CPU", "-api", "sync", "-hint", "none", "-nthreads", str(threads)),
                *("-nstreams", "1", "-infer_precision", precision, "-t", str(seconds)),
                *("-shape", shape, "-report_type", "no_counters", "-json_stats"),
                *("-report_folder", report),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=child_environment(threads),
        )
        path = next(Path(report).glob("*.json"))
        results = json.loads(path.read_text())["execution_results"]
        return float(results["latency (ms)"]) * 1e3


def row(model: str, other: str, found: dict[str, float]) -> tuple[str, ...]:
    """A line of the table."""
    small = model == "small"
    within = abs(found["difference"]) <= 5 if small else abs(found["ratio"] - 1) <= 0.02
    return (
        model,
        other,
        f"{found['ours']:.1f}",
        f"{found['bare']:.1f}",
        f"{found['difference']:+.1f}",
        f"{found['ratio'] - 1:+.2%}",
        f"{found['low'] - 1:+.2%} .. {found['high'] - 1:+.2%}",
        f"{'yes' if within else 'NO'} ({'5 us' if small else '2 %'})",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--block-s", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--benchmark-app", action="store_true")
    parser.add_argument("--backends", nargs="+", default=list(LOADS))
    parser.add_argument("--models", nargs="+", default=list(SIZES))
    given = parser.parse_args()
    os.environ.update(child_environment(given.threads))
    rows, tool_rows = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in given.models:
            split = make_split(folder / f"split-{model}", SIZES[model])
            for representation in LOADS.values():
                if not (folder / model / representation).exists():
                    make_model(folder / model, model, representation, split)
        with lock.timing():
            for model in given.models:
                for backend in given.backends:
                    arguments = (str(folder), given.pairs, given.block_s, given.threads)
                    found = apart(compare, backend, model, *arguments)
                    rows.append(row(model, backend, found))
                    if "tool_ratio" in found:
                        tool = {k[5:]: v for k, v in found.items() if k.startswith("tool_")}
                        rows.append(row(model, "torch.utils.benchmark", tool))
            if given.benchmark_app:
                for model in [m for m in given.models if m == "large"]:
                    xml = next((folder / model / "openvino").glob("*.xml"))
                    few = (str(folder), max(given.pairs // 4, 5), given.block_s, given.threads)
                    before = apart(compare, "openvino", model, *few)["ours"]
                    tool = benchmark_app(xml, SIZES[model], 5, given.threads)
                    after = apart(compare, "openvino", model, *few)["ours"]
                    ours = (before + after) / 2
                    tool_rows.append(
                        (
                            model,
                            f"{before:.1f}",
                            f"{tool:.1f}",
                            f"{after:.1f}",
                            f"{ours / tool - 1:+.1%}",
                        )
                    )
    header = (
        "model",
        "beside",
        "pqbench us",
        "its us",
        "difference us",
        "ratio",
        "95 %",
        "within",
    )
    print_table(header, rows)
    if tool_rows:
        print()
        print_table(
            ("model", "pqbench us", "benchmark_app us", "pqbench again", "ratio"), tool_rows
        )


if __name__ == "__main__":
    main()
