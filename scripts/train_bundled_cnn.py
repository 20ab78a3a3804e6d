"""Train the CNN for MNIST's digits that pqbench ships: three minutes on two cores.

    python scripts/train_bundled_cnn.py --out pqbench/models/bundled

Cross entropy on the 4,000 training digits, each turned, zoomed and shifted a little by its own
draw; the moving average of the weights is kept. The held-out split is scored once, with the last
weights, and chooses nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from bundled_training import (
    SEED,
    Average,
    halved,
    keep,
    load_images,
    recalibrate,
    run,
    scores,
    to_input,
    warp,
)
from torch import Tensor
from torch.nn import functional

from pqbench.core.preprocess import Interpolation
from pqbench.data.arrays import Mnist5k
from pqbench.models.cnn import Cnn

WIDTH = 32
DIGITS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


def train(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    index = Mnist5k().index()
    digits, held = index.split("train"), index.split("val")
    images = load_images(digits, 32, Interpolation.bilinear)
    labels = torch.tensor(digits.labels)
    network = Cnn(10, args.width).to(memory_format=torch.channels_last)
    average = Average(network, 0.998)

    def loss_of(picked: Tensor, generator: torch.Generator, side: int) -> Tensor:  # noqa: ARG001
        x = warp(images[picked], generator, degrees=15, zoom=0.12, shift=0.07)
        logits = network(to_input(x, **DIGITS))
        return functional.cross_entropy(logits, labels[picked], label_smoothing=0.05)

    losses = run(
        network,
        average,
        network,
        loss_of,
        len(images),
        [32] * args.epochs,
        64,
        args.rate,
        0.02,
        SEED,
    )
    net = average.network
    recalibrate(
        net, lambda: (to_input(images[i : i + 250], **DIGITS) for i in range(0, len(images), 250))
    )
    net.load_state_dict(halved(net.state_dict()))
    found = scores(
        net,
        load_images(held, 32, Interpolation.bilinear),
        torch.tensor(held.labels),
        **DIGITS,
    )
    print(found, flush=True)
    keep(
        args.out,
        "cnn-mnist5k" if args.width == WIDTH else f"cnn{args.width}-mnist5k",
        net.state_dict(),
        {
            "model": "cnn",
            "builder": {"_target_": "pqbench.models.cnn.Cnn", "width": args.width},
            "dataset": "mnist5k",
            "classes": list(index.classes),
            "preprocess": "grey to RGB, bilinear resize to 32, mean 0.5 and std 0.25",
            "train_images": len(images),
            "held_out_images": len(held.labels),
            **found,
            "seed": SEED,
            "epochs": args.epochs,
            "losses": losses,
            "minutes": round((time.perf_counter() - began) / 60, 1),
            "licence": "CC BY-SA 3.0, as the digits it was trained on (MNIST)",
        },
        "train_bundled_cnn.py",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument(
        "--width", type=int, default=WIDTH, help="of the first stage; 32 is bundled"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)
    train(args)


if __name__ == "__main__":
    main()
