"""pqbench's medians beside those of each runtime's own tool, on the models of a sweep.

    python scripts/bench/timing/own_tools.py outputs/sweeps/TIME [--rounds 3] [--seconds 1]

OpenVINO ships ``benchmark_app`` (synchronous here), LiteRT ``litert-benchmark``, PyTorch
``torch.utils.benchmark``. The packages of ONNX Runtime, ExecuTorch, ncnn and MNN bring no such
tool: there it is a bare loop of the calls of their documentation. A loop and PyTorch's timer take
turns with pqbench on one loaded session, in blocks; a program of its own runs between two fresh
processes of pqbench's, ``--rounds`` times, and its ratio is that of the medians over the rounds.
Wanted: 5 %. Prints a Markdown table, which scripts/runtimes_page.py takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_models import make_split
from overhead import apart, bare_loop, benchmark_app, beside, torch_timer

from pqbench.core.artifact import Artifact
from pqbench.core.record import Record
from pqbench.machine import device_lock as lock
from pqbench.machine.cpu import usable_cores
from pqbench.report.load import find_records, newest_found
from pqbench.report.names import backend_name, model_name, step_name
from pqbench.workers.child import child_environment

WANTED = 0.05
SIZE = 224
LOOP = "bare loop"
TIMER = "torch.utils.benchmark"
PROGRAMS = {"openvino": "benchmark_app", "litert": "litert-benchmark"}
Call = Callable[[dict[str, Any]], object]


def first(batch: Mapping[str, Any]) -> Any:
    """The one input of these models."""
    return next(iter(batch.values()))


def torch_call(session: Any) -> Call:
    """The network on a tensor; the result as an array."""
    import torch

    network = session._network

    def call(batch: dict[str, Any]) -> object:
        with torch.inference_mode():
            return network(torch.from_numpy(first(batch))).numpy()

    return call


def ort_call(session: Any) -> Call:
    """https://onnxruntime.ai/docs/api/python."""
    raw = session._session
    return lambda batch: raw.run(None, batch)


def executorch_call(session: Any) -> Call:
    """https://docs.pytorch.org/executorch/stable/runtime-python-api-reference.html."""
    import torch

    method = session._method
    return lambda batch: method.execute([torch.from_numpy(first(batch))])


def ncnn_call(session: Any) -> Call:
    """https://github.com/Tencent/ncnn/tree/master/python."""
    import ncnn

    net = session._net

    def call(batch: dict[str, Any]) -> object:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(first(batch)[0]))
            return np.array(extractor.extract("out0")[1])

    return call


def mnn_call(session: Any) -> Call:
    """https://mnn-docs.readthedocs.io/en/latest/inference/python.html."""
    import MNN

    net = session._nets[1]
    interpreter, raw = net.interpreter, net.session
    target, output = interpreter.getSessionInput(raw), interpreter.getSessionOutput(raw)
    kinds = (MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe)
    shape = output.getShape()

    def call(batch: dict[str, Any]) -> object:
        image = first(batch)
        target.copyFrom(MNN.Tensor(image.shape, kinds[0], image, kinds[1]))
        interpreter.runSession(raw)
        host = MNN.Tensor(shape, kinds[0], np.empty(shape, np.float32), kinds[1])
        output.copyToHostTensor(host)
        return host.getNumpyData()

    return call


CALLS: Mapping[str, Callable[[Any], Call]] = {
    "torch": torch_call,
    "ort": ort_call,
    "executorch": executorch_call,
    "ncnn": ncnn_call,
    "mnn": mnn_call,
}


@dataclass(frozen=True)
class Task:
    """One model in one runtime.

    Attributes:
        family: Key of ``CALLS`` or ``PROGRAMS``.
        backend: The backend's configuration, as it was measured.
        folder: The deployed model.
        split: Inputs.
        seconds: Of a block, or of a run of a program.
        rounds: Pairs of blocks, or of runs.
        threads: Of the runtime.
    """

    family: str
    backend: dict[str, Any]
    folder: str
    split: str
    seconds: float
    rounds: int
    threads: int


def opened(task: Task) -> Any:
    """The session as it is measured, and its inputs."""
    from pqbench.measure.denormals import flush_denormals

    flushed = flush_denormals()
    from pqbench.measure.session_host import open_host

    host = open_host(task.backend, task.folder, task.split, [1], 16, 0, flushed)
    if task.family == "torch":
        import torch

        torch.set_num_threads(task.threads)
    return host


def in_turns(task: Task) -> dict[str, float]:
    """Pqbench's blocks and those of a bare loop, or of PyTorch's timer, on one session."""
    host = opened(task)
    call, batches = CALLS[task.family](host.session), host._views(1)
    timer = torch_timer(call, batches, task.threads) if task.family == "torch" else None
    ours: list[float] = []
    other: list[float] = []
    rng = np.random.default_rng(0)
    for turn in range(task.rounds + 1):
        found = {}
        for side in rng.permutation(["ours", "other"]):
            if side == "ours":
                block = host.block(1, task.seconds, 1, 1_000_000, 0.0)
                found[side] = float(np.median(block["ns"])) / 1e3
            elif timer is not None:
                found[side] = 1e6 * timer.blocked_autorange(min_run_time=task.seconds).median
            else:
                found[side] = float(np.median(bare_loop(call, batches, task.seconds))) / 1e3
        if turn:  # the first warms up
            ours.append(found["ours"])
            other.append(found["other"])
    host.close()
    return beside(ours, other)


def ours_alone(task: Task) -> float:
    """Pqbench's median of a fresh session, in microseconds."""
    host = opened(task)
    host.block(1, task.seconds / 4, 1, 1_000_000, 0.0)
    median = float(np.median(host.block(1, task.seconds, 1, 1_000_000, 0.0)["ns"])) / 1e3
    host.close()
    return median


def litert_benchmark(model: Path, runs: int, threads: int) -> float:
    """Median of LiteRT's own program in microseconds, from the JSON that it writes."""
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "result.json"
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "litert-benchmark"), f"--model={model}"),
                *(f"--num_threads={threads}", f"--num_runs={runs}", f"--warmup_runs={runs // 4}"),
                f"--result_json={result}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(threads),
        )
        return float(json.loads(result.read_text())["latency"]["median_ms"]) * 1e3


def programs(task: Task) -> dict[str, float]:
    """A program of the runtime's own in turns with fresh processes of pqbench's."""
    ours, other = [apart(ours_alone, task)], []
    folder = Path(task.folder)
    for _ in range(task.rounds):
        if task.family == "openvino":
            precision = str(task.backend.get("precision", "f32"))
            seconds = max(1, round(task.seconds))
            file = next(folder.glob("*.xml"))
            other.append(benchmark_app(file, SIZE, seconds, task.threads, precision))
        else:
            runs = max(20, round(task.seconds * 1e6 / ours[0]))
            other.append(litert_benchmark(next(folder.glob("*.tflite")), runs, task.threads))
        ours.append(apart(ours_alone, task))
    ratio = statistics.median(ours) / statistics.median(other)
    around = itertools.pairwise(ours)
    each = [(a + b) / 2 / t for (a, b), t in zip(around, other, strict=True)]
    return {
        "ours": statistics.median(ours),
        "bare": statistics.median(other),
        "ratio": ratio,
        "low": min(each),
        "high": max(each),
    }


def family_of(record: Record) -> str | None:
    """Which way a record's runtime is measured; None: none of them."""
    name = str(record.config["backend"]["_target_"]).split(".")[2]
    known = name in CALLS or name in PROGRAMS
    mode = record.config["backend"].get("mode", "eager")
    precision = record.config["backend"].get("precision")
    if name == "torch" and (mode != "eager" or precision != "fp32"):
        return None  # what surrounds the call there is no plain call of the network
    return name if known else None


def line(record: Record, tool: str, found: Mapping[str, float]) -> str:
    """A row of the table."""
    cells = (
        model_name(record.experiment.model),
        " + ".join(step_name(s) for s in record.experiment.recipe) or "uncompressed",
        backend_name(record.experiment.backend),
        tool,
        f"{found['ours'] / 1e3:.3f}",
        f"{found['bare'] / 1e3:.3f}",
        f"{found['ratio'] - 1:+.1%} [{found['low'] - 1:+.1%}, {found['high'] - 1:+.1%}]",
        "yes" if abs(found["ratio"] - 1) <= WANTED else "no",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="runs of a program")
    parser.add_argument("--blocks", type=int, default=12, help="pairs of blocks of a loop")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a run; a block has a fifth")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--recipes", nargs="+", help="only these: none, ort_int8, ...")
    given = parser.parse_args()
    os.environ.update(child_environment(given.threads))
    found = newest_found([p for folder in given.folders for p in find_records(folder)])
    print("| model | recipe | runtime | its tool | pqbench, ms | tool, ms | difference | 5 % |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as name, lock.timing():
        for record, where in found:
            family = family_of(record) if record.ok else None
            folder = record.path(where, "model") if family else None
            if family is None or folder is None:
                continue
            if given.recipes and record.experiment.recipe_name not in given.recipes:
                continue
            program = family in PROGRAMS
            split = Path(name) / "-".join(i.name for i in Artifact.load(folder).inputs)
            if not split.exists():
                make_split(split, SIZE, name=split.name)
            task = Task(
                family=family,
                backend=record.config["backend"],
                folder=str(folder),
                split=str(split),
                seconds=given.seconds if program else given.seconds / 5,
                rounds=given.rounds if program else given.blocks,
                threads=given.threads,
            )
            result = programs(task) if program else apart(in_turns, task)
            tool = PROGRAMS.get(family) or (TIMER if family == "torch" else LOOP)
            print(line(record, tool, result), flush=True)


if __name__ == "__main__":
    main()
