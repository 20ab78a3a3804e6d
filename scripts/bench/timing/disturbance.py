"""Why pqbench measures in turns: a neighbour that comes and goes, and two ways to see a speedup.

FP32 against INT8 of one model on one backend, first quiet, then with processes that burn the CPU
for some seconds and rest for some. The paired estimate must stay within 10 % of the quiet one or
say that it is disturbed; baseline first, candidate afterwards is shown beside it.

    python scripts/bench/timing/disturbance.py [--backend ort] [--on 3] [--off 3] [--repeats 5]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench_models import backend_node, make_model, make_split, print_table

from pqbench.compress.ort_int8 import OrtInt8
from pqbench.core.artifact import Artifact
from pqbench.core.record import Speedup
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.export.convert import convert
from pqbench.machine import device_lock as lock
from pqbench.machine.cpu import usable_cores
from pqbench.machine.foreign_load import ForeignLoad
from pqbench.measure import paired
from pqbench.measure.blocks import BatchResult
from pqbench.measure.protocol import MeasureProtocol
from pqbench.workers.child import child_environment
from pqbench.workers.session import SessionWorker

BURN = """
import random, sys, time
on, off, seed = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
time.sleep(random.Random(seed).uniform(0, off))
while True:
    end = time.monotonic() + on
    while time.monotonic() < end:
        pass
    time.sleep(off)
"""


@contextlib.contextmanager
def neighbour(count: int, on_s: float, off_s: float, seed: int) -> Iterator[None]:
    """Processes that burn the CPU now and then."""
    burners = [
        subprocess.Popen([sys.executable, "-c", BURN, str(on_s), str(off_s), str(seed)])
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def one_after_the_other(
    baseline: SessionWorker, candidate: SessionWorker, batch_size: int, protocol: MeasureProtocol
) -> float:
    """The usual way: median of all calls of the one, then of the other."""
    medians = []
    for side in (baseline, candidate):
        paired.warm_up(side, batch_size, protocol)
        block = side.block(batch_size, protocol.max_seconds / 2)
        medians.append(block.median_ms)
    return medians[0] / medians[1]


def models(folder: Path, backend: str, threads: int, model: str) -> tuple[Artifact, Artifact, Path]:
    """FP32 and INT8 of one model, and the split that gives the inputs."""
    from bench_models import SIZES

    split: PreparedSplit = make_split(folder / "split", SIZES[model])
    loads = {"ort": "onnx", "openvino": "openvino"}[backend]
    onnx = make_model(folder / "fp32", model, "onnx", split)
    workdir = folder / "int8"
    workdir.mkdir()
    int8 = OrtInt8(calibration_size=32).apply(onnx, StepData(split, 0, threads), workdir)
    if loads == "onnx":
        return onnx, int8, split.folder
    batch = split.feed(slice(0, 16))
    return (
        convert(onnx, "openvino", batch, folder / "fp32-ov"),
        convert(int8, "openvino", batch, folder / "int8-ov"),
        split.folder,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("ort", "openvino"), default="ort")
    parser.add_argument("--model", choices=("small", "large"), default="large")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--on", type=float, default=3.0, help="seconds of burning")
    parser.add_argument("--off", type=float, default=3.0, help="seconds of rest")
    parser.add_argument("--burners", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--seconds", type=float, default=10.0, help="timed seconds per estimate")
    given = parser.parse_args()
    os.environ.update(child_environment(given.threads))
    protocol = MeasureProtocol(batch_sizes=(given.batch_size,), max_seconds=given.seconds)
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        fp32, int8, split = models(folder, given.backend, given.threads, given.model)
        stack.enter_context(lock.timing())
        base, cand = (
            stack.enter_context(
                SessionWorker.start(
                    backend_node(given.backend, given.threads),
                    artifact.folder,
                    split,
                    [given.batch_size],
                    given.threads,
                    folder / f"{side}.log",
                    300.0,
                    side,
                    pool_mb=32,
                )
            )
            for side, artifact in (("baseline", fp32), ("candidate", int8))
        )
        load = ForeignLoad([base.pid, cand.pid])

        def pair(seed: int) -> BatchResult:
            (result,) = paired.measure(cand, base, replace(protocol, seed=seed), load)
            return result

        quiet = pair(0).speedup
        assert quiet is not None
        rows.append(_row("quiet", "in turns", quiet.ratio, quiet.ratio, quiet))
        alone = one_after_the_other(base, cand, given.batch_size, protocol)
        rows.append(_row("quiet", "one after the other", alone, quiet.ratio, None))
        for repeat in range(given.repeats):
            with neighbour(given.burners, given.on, given.off, repeat):
                found = pair(repeat).speedup
                assert found is not None
                rows.append(_row("disturbed", "in turns", found.ratio, quiet.ratio, found))
                alone = one_after_the_other(base, cand, given.batch_size, protocol)
                rows.append(_row("disturbed", "one after the other", alone, quiet.ratio, None))
    print(
        f"INT8 over FP32, {given.backend}, {given.model}, batch {given.batch_size}, "
        f"{given.threads} threads; {given.burners} burner(s) {given.on:g} s on, {given.off:g} s off"
    )
    header = ("machine", "method", "speedup", "95 %", "off by", "set aside", "says", "passes")
    print_table(header, rows)


def _row(
    machine: str, method: str, ratio: float, truth: float, found: Speedup | None
) -> tuple[str, ...]:
    error = ratio / truth - 1
    disturbed = found is not None and found.disturbed
    return (
        machine,
        method,
        f"{ratio:.3f}",
        f"{found.low:.3f} .. {found.high:.3f}" if found else "",
        f"{error:+.1%}",
        f"{found.disturbed_blocks} blocks" if found else "",
        "disturbed" if disturbed else "",
        "yes" if abs(error) <= 0.1 or disturbed else "NO",
    )


if __name__ == "__main__":
    main()
