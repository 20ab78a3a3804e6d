"""The same experiment several times: do the intervals of its p50 agree?

Every repeat loads afresh, in new processes. Target: of five runs at least eight of the ten pairs of
intervals overlap, or one of the two calls itself unstable.

    python scripts/bench/timing/repeatability.py [--backends torch ort openvino] [--repeats 5]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from bench_models import SIZES, backend_node, make_model, make_split, print_table

from pqbench.core.record import Latency
from pqbench.experiment.measure_pair import SideSpec, run_cell
from pqbench.machine.cpu import usable_cores
from pqbench.measure.protocol import MeasureProtocol
from pqbench.workers.child import child_environment

LOADS = {"torch": "torch", "ort": "onnx", "openvino": "openvino"}


def overlap(a: Latency, b: Latency) -> bool:
    """Whether two intervals have a point in common."""
    return a.p50_low_ms <= b.p50_high_ms and b.p50_low_ms <= a.p50_high_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=tuple(LOADS), default=list(LOADS))
    parser.add_argument("--model", choices=tuple(SIZES), default="large")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--processes", type=int, default=1, help="starts per run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="timed seconds per batch size")
    parser.add_argument("--threads", type=int, default=usable_cores())
    given = parser.parse_args()
    os.environ.update(child_environment(given.threads))
    protocol = MeasureProtocol(
        batch_sizes=given.batch_sizes,
        max_seconds=given.seconds,
        processes=given.processes,
        score=False,
        pool_mb=32,
    )
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = make_split(folder / "split", SIZES[given.model])
        for backend in given.backends:
            artifact = make_model(folder / backend, given.model, LOADS[backend], split)
            side = SideSpec(
                backend_node(backend, given.threads), artifact.folder, split.folder, "candidate"
            )
            runs = [
                run_cell(
                    side,
                    None,
                    replace(protocol, seed=repeat),
                    folder / f"{backend}-{repeat}",
                    given.threads,
                )
                for repeat in range(given.repeats)
            ]
            for i, size in enumerate(sorted(given.batch_sizes)):
                latencies = [run.latency[i] for run in runs]
                pairs = list(itertools.combinations(latencies, 2))
                agree = sum(overlap(a, b) for a, b in pairs)
                warned = sum(not overlap(a, b) and not (a.stable and b.stable) for a, b in pairs)
                unstable = sum(not latency.stable for latency in latencies)
                middle = [latency.p50_ms for latency in latencies]
                rows.append(
                    (
                        backend,
                        str(size),
                        f"{min(middle):.3f} .. {max(middle):.3f}",
                        f"{max(middle) / min(middle) - 1:.1%}",
                        f"{agree} of {len(pairs)}",
                        f"{unstable} of {len(runs)}",
                        f"{warned} of {len(pairs)}",
                        "yes" if agree + warned >= 0.8 * len(pairs) else "NO",
                    )
                )
    print(f"{given.model}, {given.threads} threads, {given.repeats} x {given.processes} start(s)")
    header = (
        "backend",
        "batch",
        "p50 ms",
        "spread",
        "intervals overlap",
        "unstable",
        "apart, one unstable",
        "passes",
    )
    print_table(header, rows)


if __name__ == "__main__":
    main()
