"""Images per second while training: pqbench's ``fit`` against a bare PyTorch loop, in turns.

All arms train the same network on the same prepared images (memory-mapped uint8) with AdamW. The
bare loop is what a user would write: float32, contiguous, normalised on the way, and nothing else;
it does not clip gradients, schedule, or keep an average. Targets: ``fit`` at the same settings at
least 0.95 times the bare loop, and at least 1.5 times by what the machine offers. Interval of the
ratio over the rounds. Say only figures of a machine that does nothing else.

    python scripts/bench/timing/training.py [--models cnn,mobilenetv3] [--rounds 7] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench_models import make_split
from torch import nn
from torch.nn import functional

from pqbench.core.preprocess import Augment
from pqbench.core.split import PreparedSplit
from pqbench.measure.intervals import ratio_interval
from pqbench.nets.checkpoint import build_network
from pqbench.nets.layers import torch_threads
from pqbench.training.fit import fit
from pqbench.training.settings import TrainingSettings

BARE = "bare loop"


@dataclass(frozen=True)
class Model:
    """A network and how much of it makes a round of a few seconds.

    Attributes:
        builder: ``_target_`` and arguments.
        side: Of the images, px.
        images: In a round.
        batch: In a step.
    """

    builder: Mapping[str, object]
    side: int
    images: int
    batch: int


MODELS = {
    "cnn": Model({"_target_": "pqbench.models.cnn.Cnn", "num_classes": 10}, 32, 2048, 64),
    "mobilenetv3": Model(
        {"_target_": "torchvision.models.mobilenet_v3_large", "num_classes": 10}, 224, 96, 32
    ),
    "efficientnet_lite0": Model(
        {"_target_": "pqbench.models.efficientnet_lite.efficientnet_lite0", "num_classes": 10},
        224,
        96,
        32,
    ),
    "resnet18": Model({"_target_": "torchvision.models.resnet18", "num_classes": 10}, 224, 96, 32),
}
ARMS: dict[str, dict[str, Any]] = {
    "fit": {},
    "fit, bf16": {"precision": "bf16-mixed"},
    "fit, bf16, average kept": {"precision": "bf16-mixed", "ema": 0.99},
    "fit, bf16, half size": {"precision": "bf16-mixed", "train_size": 0.5},
}


def bare(network: nn.Module, split: PreparedSplit, batch: int) -> None:
    """One pass as a user would write it."""
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    images, labels = split.stored("input"), torch.from_numpy(split.labels().astype("int64"))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5] * 3, [0.25] * 3))
    order = torch.randperm(len(labels))
    for start in range(0, len(order), batch):
        picked = order[start : start + batch]
        x = torch.from_numpy(images[picked.numpy()]).permute(0, 3, 1, 2).float() / 255
        loss = functional.cross_entropy(network((x - mean) / std), labels[picked])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def arms(model: Model, split: PreparedSplit, threads: int) -> dict[str, Callable[[], None]]:
    """What is timed, by name; each call is one pass over the images."""
    made: dict[str, Callable[[], None]] = {}
    network = build_network(model.builder)
    made[BARE] = lambda: bare(network, split, model.batch)
    for name, changed in ARMS.items():
        if "train_size" in changed:
            if model.side < 64:
                continue
            changed = {**changed, "train_size": model.side // 2}
        settings = TrainingSettings(
            epochs=1, batch_size=model.batch, augment=Augment.none, threads=threads, **changed
        )
        own = build_network(model.builder)

        def run(own: nn.Module = own, settings: TrainingSettings = settings) -> None:
            fit(own, split, settings)

        made[name] = run
    return made


def measure(name: str, rounds: int, threads: int) -> list[dict[str, object]]:
    """Rows of images/s by arm, with the ratio to the bare loop of the same round."""
    model = MODELS[name]
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, torch_threads(threads):
        split = make_split(Path(folder) / "split", model.side, model.images)
        calls = arms(model, split, threads)
        for call in calls.values():
            call()
        seconds: dict[str, list[float]] = {arm: [] for arm in calls}
        for _ in range(rounds):
            for arm in rng.sample(list(calls), len(calls)):
                start = time.perf_counter()
                calls[arm]()
                seconds[arm].append(time.perf_counter() - start)
    rows: list[dict[str, object]] = []
    for arm, times in seconds.items():
        ratios = [b / own for b, own in zip(seconds[BARE], times, strict=True)]
        ratio = None if arm == BARE else [round(v, 3) for v in ratio_interval(ratios)]
        rate = model.images / sorted(times)[len(times) // 2]
        rows.append({"model": name, "arm": arm, "images_per_s": round(rate, 1), "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="cnn,mobilenetv3,efficientnet_lite0,resnet18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    for name in args.models.split(","):
        for row in measure(name, args.rounds, args.threads):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
