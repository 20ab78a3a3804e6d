"""What it costs PyTorch on a CPU that glibc gives freed memory back, in turns with keeping it.

Each start is a process of its own with one network of random weights, which is timed at each batch
size; starts with and without ``keep_freed_memory`` take turns. ``training`` times steps of plain
SGD instead of calls. Printed: medians, the ratio with an interval over the starts, the page faults
of a call, the process's peak memory so far (batch sizes in ascending order), and by how much the
starts differ (standard deviation of their medians).

    python scripts/bench/timing/memory_kept.py [--models mobilenet_v3_large,resnet18] [--starts 8]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch.nn import functional

from pqbench.machine.heap import keep_freed_memory
from pqbench.measure.intervals import ratio_interval
from pqbench.measure.memory import lifetime_peak
from pqbench.measure.session_host import page_faults

SIDE = 224
CALLS_S, CALLS = 1.0, 5  # for so long, at least so many, after three that do not count


def child(model: str, work: str, keep: bool, batches: list[int], threads: int) -> None:
    """Print the median ms, the page faults of a call and the peak MiB, by batch size."""
    if keep and not keep_freed_memory():
        sys.exit("the C library does not keep memory")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = getattr(torchvision.models, model)(num_classes=10)
    found = {}
    for batch in batches:
        x = torch.rand(batch, 3, SIDE, SIDE)
        call = _training(network, x) if work == "training" else _calls(network, x)
        found[batch] = (*timed(call), lifetime_peak() / 2**20)
    print(json.dumps(found))


def _calls(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    network.eval()

    def call() -> None:
        with torch.inference_mode():
            network(x)

    return call


def _training(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-4)
    labels = torch.zeros(len(x), dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(network(x), labels).backward()
        optimizer.step()

    return step


def timed(call: Callable[[], None]) -> tuple[float, float]:
    """Median ms of a call, and its page faults."""
    for _ in range(3):
        call()
    faults, times = page_faults(), []
    end = time.perf_counter() + CALLS_S
    while len(times) < CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), (page_faults() - faults) / len(times)


def main() -> None:
    """Time all models; a row of a Markdown table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mobilenet_v3_large,resnet18,densenet121")
    parser.add_argument("--work", choices=("calls", "training"), default="calls")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    batches = sorted(int(batch) for batch in args.batches.split(","))
    if args.child:
        child(args.models, args.work, args.child == "keep", batches, args.threads)
        return
    print(
        "| network | batch | given back [ms] | kept [ms] | times as fast | page faults a call, "
        "given back | kept | peak memory, given back [MiB] | kept [MiB] | starts differ by, given "
        "back [%] | kept [%] |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for model in args.models.split(","):
        found: dict[str, list[dict[str, tuple[float, float, float]]]] = {"give": [], "keep": []}
        for start in range(args.starts):
            for way in ("give", "keep") if start % 2 else ("keep", "give"):
                command = [sys.executable, __file__, "--models", model, "--work", args.work]
                command += ["--batches", args.batches, "--threads", str(args.threads)]
                done = subprocess.run(
                    [*command, "--child", way], stdout=subprocess.PIPE, text=True, check=True
                )
                found[way].append(json.loads(done.stdout))
        for batch in map(str, batches):
            give, keep = ([one[batch] for one in found[way]] for way in ("give", "keep"))
            ratios = [a[0] / b[0] for a, b in zip(give, keep, strict=True)]
            ratio, low, high = ratio_interval(ratios, range(args.starts))
            ms, faults, peaks = (
                [statistics.median(one[what] for one in side) for side in (give, keep)]
                for what in range(3)
            )
            spread = [
                100 * statistics.stdev(o[0] for o in side) / m
                for side, m in zip((give, keep), ms, strict=True)
            ]
            print(
                f"| {model} | {batch} | {ms[0]:.1f} | {ms[1]:.1f} | {ratio:.2f} "
                f"[{low:.2f}, {high:.2f}] | {faults[0]:,.0f} | {faults[1]:,.0f} | "
                f"{peaks[0]:,.0f} | {peaks[1]:,.0f} | "
                f"{spread[0]:.1f} | {spread[1]:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
