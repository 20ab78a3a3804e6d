"""Evaluation against the session's bare throughput: what reading inputs costs, in one run.

One session in one process. In turns of random order: a *bare* pass calls the session on inputs that
lie in memory, normalised; an *evaluation* pass is what scoring does: read the memory-mapped uint8
images of the warm cache, normalise, call, keep the outputs. Target: evaluation reaches at least
90 % of the bare throughput; with ``--int8``, where a call is short, 95 %.

    python scripts/bench/timing/evaluate.py --root data/imagenette2-320 [--model mobilenetv3_small]
    python scripts/bench/timing/evaluate.py --dataset elpv --model efficientnet_lite0 --int8
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from pqbench.app.arguments import config_folder
from pqbench.core.artifact import Artifact
from pqbench.core.split import PreparedSplit
from pqbench.core.task import SplitRequest
from pqbench.experiment import config as schema
from pqbench.experiment.tasks import get_task
from pqbench.export.convert import convert
from pqbench.machine.cpu import usable_cores
from pqbench.measure.session_host import Host, open_host
from pqbench.models.prepare import prepare_model

TARGET = 0.9
TARGET_INT8 = 0.95


def prepared(
    arguments: argparse.Namespace, folder: Path
) -> tuple[schema.ExperimentConfig, PreparedSplit, Artifact]:
    """The configuration, its scored split and its model, whose weights are random."""
    overrides = [f"model={arguments.model}", f"dataset={arguments.dataset}", "model.weights=none"]
    if arguments.root:
        overrides.append(f"dataset.root={arguments.root}")
    overrides.append(f"backend={arguments.backend}")
    schema.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = schema.read(compose("config", overrides=overrides))
    model, dataset = config.model, config.dataset
    request = SplitRequest(
        dataset.source,
        dataset.split,
        dataset.split,
        limit=arguments.limit,
        threads=usable_cores(),
        preprocess=model.preprocess,
        tokenizer=model.tokenizer,
    )
    split = get_task(model.task).prepare(request, folder / "split")
    network, _ = prepare_model(
        model, split.classes, dataset.name, None, split.specs(), folder / "torch", seed=0
    )
    batch = split.feed(split.spread(4))
    loads = {"torch": "torch", "ort": "onnx", "openvino": "openvino"}[arguments.backend]
    if not arguments.int8:
        made = convert(network, loads, batch, folder / "model")  # type: ignore[arg-type]
        return config, split, made
    from pqbench.compress.ort_int8 import OrtInt8
    from pqbench.core.step import StepData

    exported = convert(network, "onnx", batch, folder / "onnx")
    (folder / "model").mkdir()
    data = StepData(split, seed=0, threads=usable_cores())
    return config, split, OrtInt8(calibration_size=16).apply(exported, data, folder / "model")


def bare_pass(host: Host, batches: list[dict[str, Any]]) -> float:
    """Samples per second of calls alone."""
    start = time.perf_counter()
    for batch in batches:
        host.session.run(batch)
    return sum(len(next(iter(b.values()))) for b in batches) / (time.perf_counter() - start)


def evaluation_pass(host: Host, split: PreparedSplit, out: Path, batch_size: int) -> float:
    """Samples per second of scoring, from the cache on disk to the outputs on disk."""
    start = time.perf_counter()
    count = host.predict(str(out), batch_size)
    assert count == split.count
    return count / (time.perf_counter() - start)


def main() -> int:
    """Measure and print; 1 if the target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="mobilenetv3_small", help="a model of conf/model")
    parser.add_argument("--dataset", default="imagenette", help="a data set of conf/dataset")
    parser.add_argument("--root", help="its folder")
    parser.add_argument("--backend", default="ort", choices=("torch", "ort", "openvino"))
    parser.add_argument("--int8", action="store_true", help="quantized by ort_int8; not for torch")
    parser.add_argument("--limit", type=int, default=512, help="samples")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    target = TARGET_INT8 if arguments.int8 else TARGET
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, split, model = prepared(arguments, folder)
        size = arguments.batch_size
        host = open_host(
            {**config.backend, "threads": arguments.threads},
            str(model.folder),
            str(split.folder),
            [size],
            pool_mb=1.0,
            seed=0,
            flushed=False,
        )
        batches = [
            {k: np.resize(a, (size, *a.shape[1:])) for k, a in batch.items()}
            for batch in split.batches(size)
        ]
        rates: dict[str, list[float]] = {"bare": [], "evaluation": []}
        order = random.Random(0)
        bare_pass(host, batches)
        evaluation_pass(host, split, folder / "out.npy", size)
        for _ in range(arguments.rounds):
            for kind in order.sample(sorted(rates), 2):
                rates[kind].append(
                    bare_pass(host, batches)
                    if kind == "bare"
                    else evaluation_pass(host, split, folder / "out.npy", size)
                )
        host.close()
    ratios = [e / b for e, b in zip(rates["evaluation"], rates["bare"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"{arguments.model} on {arguments.backend}, {split.count} samples, batch {size}")
    for kind, values in rates.items():
        print(f"  {kind:12} {statistics.median(values):9.1f} samples/s")
    print(
        f"  ratio        {ratio:9.3f}  ({min(ratios):.3f} ... {max(ratios):.3f}), target {target}"
    )
    return 0 if ratio >= target else 1


if __name__ == "__main__":
    sys.exit(main())
