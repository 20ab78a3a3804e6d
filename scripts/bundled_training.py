"""What the scripts that train the shipped checkpoints share: images, steps, averages, cards."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pqbench.core.dataset import Split
from pqbench.core.preprocess import Interpolation, ResizeMode
from pqbench.data.preprocess import Preprocess, decode, to_channels
from pqbench.models.bundled import Bundled

SEED = 0


def load_images(split: Split, side: int, interpolation: Interpolation) -> Tensor:
    """All images of a split, whole and resized to a square: uint8 (N, 1, side, side), grey."""
    how = Preprocess(side, side, interpolation, [0.5], [0.5], mode=ResizeMode.squash)
    if split.samples is not None:
        pictures = (Image.fromarray(np.asarray(s)) for s in split.samples)
        rows = [to_channels(picture, how)[:, :, 0] for picture in pictures]
    else:
        rows = [decode(Path(f).read_bytes(), Path(f), how)[:, :, 0] for f in split.files]
    return torch.from_numpy(np.stack(rows)).unsqueeze(1)


def to_input(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Grey (N, 1, H, W) on the 0..255 scale as normalised float RGB (N, 3, H, W)."""
    centre = torch.tensor(mean).view(1, 3, 1, 1)
    scale = torch.tensor(std).view(1, 3, 1, 1)
    x = ((x.float() / 255).expand(-1, 3, -1, -1) - centre) / scale
    return x.contiguous(memory_format=torch.channels_last)


def warp(
    x: Tensor, generator: torch.Generator, degrees: float, zoom: float, shift: float
) -> Tensor:
    """Turn, scale and shift each image (N, 1, H, W) by its own draw; the edge is repeated.

    Args:
        x: Images; not changed.
        generator: Of the draws.
        degrees: Largest turn.
        zoom: Largest relative change of each side.
        shift: Largest shift, as a share of the side.
    """
    n = len(x)

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * limit

    angle, wide, high = draw(math.radians(degrees)), 1 + draw(zoom), 1 + draw(zoom)
    rows = [
        torch.stack([angle.cos() * wide, -angle.sin() * high, draw(2 * shift)], 1),
        torch.stack([angle.sin() * wide, angle.cos() * high, draw(2 * shift)], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x.float(), grid, padding_mode="border", align_corners=False)


class Average:
    """Exponential moving average of a network's weights, from the first step unbiased.

    Args:
        network: Whose.
        decay: Share that a step keeps, once it has run for long.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network by one step."""
        self.steps += 1
        keep = min(self.decay, self.steps / (self.steps + 10))
        state = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(state[name], 1 - keep)
            else:
                value.copy_(state[name])


def run(
    modules: nn.Module,
    average: Average | None,
    network: nn.Module,
    loss_of: Callable[[Tensor, torch.Generator, int], Tensor],
    count: int,
    sides: Sequence[int],
    batch: int,
    rate: float,
    decay: float,
    seed: int,
) -> list[float]:
    """AdamW, warm-up and cosine; ``loss_of`` is given the images' numbers and the epoch's side.

    Args:
        modules: What is trained: parameters that ask for gradients.
        average: Follows ``network``.
        network: The part of ``modules`` to keep.
        loss_of: The loss of one batch.
        count: Images.
        sides: The images' side in each epoch.
        batch: Images per step.
        rate: Peak learning rate.
        decay: Of weights of two or more dimensions.
        seed: Of order and augmentation.

    Returns:
        Mean loss of each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in chosen if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=rate,
    )
    steps = count // batch
    total = steps * len(sides)
    warm = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (
            (s + 1) / warm
            if s < warm
            else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (s - warm) / (total - warm)))
        ),
    )
    losses = []
    for epoch, side in enumerate(sides):
        modules.train()
        began, total_loss = time.perf_counter(), 0.0
        order = torch.randperm(count, generator=generator)
        for step in range(steps):
            loss = loss_of(order[step * batch : (step + 1) * batch], generator, side)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(chosen, 1.0)
            optimizer.step()
            schedule.step()
            if average is not None:
                average.update(network)
            total_loss += float(loss.detach())
        losses.append(round(total_loss / steps, 4))
        seconds = time.perf_counter() - began
        print(f"epoch {epoch} {side} px loss {losses[-1]} {seconds:.1f} s", flush=True)
    return losses


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Callable[[], Any]) -> None:
    """BatchNorm's statistics anew, as plain means over batches."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    network.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    for x in batches():
        network(x)
    for m, value in zip(norms, before, strict=True):
        m.momentum = value
    network.eval()


@torch.inference_mode()
def scores(
    network: nn.Module, images: Tensor, labels: Tensor, **norm: Sequence[float]
) -> dict[str, Any]:
    """Top-1, its mean over classes, and both for each class."""
    network.eval()
    answers = torch.cat(
        [network(to_input(images[i : i + 64], **norm)).argmax(1) for i in range(0, len(images), 64)]
    )
    return by_class(answers, labels)


def by_class(answers: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-1, its mean over classes, and each class's."""
    right = answers == labels
    each = [float(right[labels == k].float().mean()) for k in range(int(labels.max()) + 1)]
    return {
        "held_out_top1": float(right.float().mean()),
        "held_out_balanced": sum(each) / len(each),
        "held_out_by_class": [round(v, 4) for v in each],
    }


def keep(
    folder: Path, name: str, state: dict[str, Tensor], card: dict[str, Any], script: str
) -> Bundled:
    """Write a checkpoint in half precision with its card, which names the script."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in half.items()}, folder / f"{name}.safetensors")
    card = {
        **card,
        "trained": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "script": f"scripts/{script}",
    }
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2), flush=True)
    return Bundled(folder / f"{name}.safetensors", card)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint in half precision gives back."""
    return {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}


def dihedral(x: Tensor, k: int) -> Tensor:
    """One of the eight symmetries of the square: k % 4 quarter turns, then a flip for k >= 4."""
    x = torch.rot90(x, k % 4, (2, 3))
    return x.flip(3) if k >= 4 else x
