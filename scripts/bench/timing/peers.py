"""One ResNet-18, random weights, batch 1: pqbench beside optimum-benchmark and benchmark_app.

Prints the median latency by each tool and what a run costs beside its timed window. Same threads,
same precision. optimum-benchmark is installed into an environment of its own (``--environment``,
made on the first call); it measures PyTorch, OpenVINO's tool the OpenVINO model. Each tool runs
``--rounds`` times in turns: on a shared machine only medians of turns compare.

    python scripts/bench/timing/peers.py [--seconds 5] [--rounds 3] [--environment FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_models import print_table
from overhead import benchmark_app

from pqbench.core.record import Record
from pqbench.machine.cpu import usable_cores
from pqbench.report.load import load_records
from pqbench.workers.child import child_environment

PEER = "optimum-benchmark==0.6.0"
WITH = "transformers<5"  # it imports a name that version 5 no longer has
MODEL = "resnet18"


@dataclass(frozen=True)
class Run:
    """One run of a tool.

    Attributes:
        p50_ms: Median of a call.
        wall_s: Of the whole command.
        timed_s: Of the timed window that was asked for.
    """

    p50_ms: float
    wall_s: float
    timed_s: float

    @property
    def fixed_s(self) -> float:
        """What the run costs beside its timed window."""
        return self.wall_s - self.timed_s


def pqbench_run(backend: str, seconds: float, threads: int, folder: Path) -> tuple[Run, Path]:
    """One experiment without a baseline's comparison, nothing found in a cache.

    Returns:
        The run, and the deployed model's file.
    """
    began = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-m", "pqbench", f"model={MODEL}", "dataset=synthetic"),
            *("model.weights=none", f"backend={backend}", "protocol.batch_sizes=[1]"),
            *(f"protocol.max_seconds={seconds}", "protocol.target_half_width=0.0001"),
            *("protocol.max_pairs=10000", f"threads={threads}", "cache=false", "tracking=none"),
            *(f"outputs={folder}", f"hydra.run.dir={folder / 'run'}"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - began
    [record] = load_records(folder / "run")
    latency = record.latency_at(1)
    assert latency is not None
    timed = latency.n * latency.mean_ms / 1e3
    return Run(latency.p50_ms, wall, timed), _model(record, folder)


def _model(record: Record, folder: Path) -> Path:
    """The deployed model's main file, linked beside its record."""
    names = {".xml", ".onnx", ".pt", ".safetensors"}
    files = [p for p in (folder / "run").rglob("*") if p.suffix in names]
    if not files:
        raise FileNotFoundError(f"no model beside the record of {record.experiment.backend}")
    return files[0]


def peer_environment(folder: Path) -> Path:
    """The Python of an environment with optimum-benchmark and this torch, made if missing."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "ready").is_file():
        import importlib.metadata as metadata

        venv.create(folder, with_pip=True, clear=True)
        same = [f"{n}=={metadata.version(n)}" for n in ("torch", "torchvision", "timm")]
        subprocess.run([python, "-m", "pip", "install", "-q", PEER, WITH, *same], check=True)
        (folder / "ready").write_text(PEER)
    return python


PEER_CODE = """
import json, sys
from optimum_benchmark import Benchmark, BenchmarkConfig
from optimum_benchmark import InferenceConfig, ProcessConfig, PyTorchConfig
seconds, threads, out = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if __name__ == "__main__":
    config = BenchmarkConfig(
        name="peer",
        launcher=ProcessConfig(),
        scenario=InferenceConfig(
            latency=True, memory=False, duration=seconds, iterations=1, warmup_runs=10,
            input_shapes={"batch_size": 1},
        ),
        backend=PyTorchConfig(
            model=sys.argv[4], library="timm", device="cpu",
            intra_op_num_threads=threads, inter_op_num_threads=1,
        ),
    )
    report = Benchmark.launch(config)
    with open(out, "w") as file:
        json.dump(report.to_dict(), file)
"""


def peer_run(python: Path, seconds: float, threads: int, folder: Path) -> Run:
    """optimum-benchmark on the same network, its isolating process launcher and defaults."""
    code, out = folder / "peer.py", folder / "peer.json"
    code.write_text(PEER_CODE)
    # Without a network it takes a model's name only if a folder of that name describes it; the
    # network is then timm's, with random weights: it never passes ``pretrained``.
    (folder / MODEL).mkdir()
    description = {"architecture": MODEL, "pretrained_cfg": {}}
    (folder / MODEL / "config.json").write_text(json.dumps(description))
    began = time.perf_counter()
    subprocess.run(
        [python, code, str(seconds), str(threads), out, MODEL],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**child_environment(threads), "HF_HUB_OFFLINE": "1"},
    )
    wall = time.perf_counter() - began
    values = json.loads(out.read_text())["forward"]["latency"]["values"]
    return Run(1e3 * statistics.median(values), wall, sum(values))


def app_run(model: Path, seconds: int, threads: int) -> Run:
    """OpenVINO's own tool on pqbench's own file."""
    began = time.perf_counter()
    p50 = benchmark_app(model, 224, seconds, threads) / 1e3
    return Run(p50, time.perf_counter() - began, seconds)


def row(name: str, runs: Sequence[Run], against: Sequence[Run]) -> tuple[str, ...]:
    """One line: medians over rounds, and the ratio to pqbench's."""
    ours, theirs = (statistics.median(r.p50_ms for r in side) for side in (against, runs))
    values = [r.p50_ms for r in runs]
    return (
        name,
        f"{theirs:.2f}",
        f"{min(values):.2f} .. {max(values):.2f}",
        f"{theirs / ours - 1:+.1%}",
        f"{statistics.median(r.fixed_s for r in runs):.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument(
        "--environment", type=Path, default=Path(tempfile.gettempdir()) / "pqbench-peers"
    )
    parser.add_argument("--without-optimum", action="store_true")
    given = parser.parse_args()
    python = None if given.without_optimum else peer_environment(given.environment)
    runs: dict[str, list[Run]] = {}
    for _ in range(given.rounds):
        for backend in ("torch", "openvino"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                run, model = pqbench_run(backend, given.seconds, given.threads, folder)
                runs.setdefault(f"pqbench {backend}", []).append(run)
                if backend == "openvino":
                    tool = app_run(model, given.seconds, given.threads)
                    runs.setdefault("benchmark_app", []).append(tool)
                elif python is not None:
                    peer = peer_run(python, given.seconds, given.threads, folder)
                    runs.setdefault("optimum-benchmark", []).append(peer)
    pairs = [("pqbench torch", "pqbench torch"), ("optimum-benchmark", "pqbench torch")]
    pairs += [("pqbench openvino", "pqbench openvino"), ("benchmark_app", "pqbench openvino")]
    print_table(
        ("tool", "p50 ms", "over rounds", "against pqbench", "fixed cost s"),
        [row(name, runs[name], runs[other]) for name, other in pairs if name in runs],
    )


if __name__ == "__main__":
    main()
