"""What an EfficientNet-Lite0 tells of images, and a MobileNetV3-Large's losses against that.

The student learns to give what the teacher gives stage by stage (Romero et al. 2015, "FitNets";
each part is fed the teacher's features, Li et al. 2020, "Blockwisely supervised neural architecture
search"), and at last, whole, the teacher's answers (Hinton et al. 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from bundled_training import dihedral, to_input
from torch import Tensor, nn
from torch.nn import functional
from train_bundled_lite import PIXELS

SIDE, CUT = 224, 13  # CUT: the first of the student's parts that is fed the teacher's features
VIEWS = (0, 2, 4, 6)  # of dihedral: a cell's bars keep their direction
IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# The student's part after which a feature is compared, and the teacher's block that gives it.
STAGES = {6: 4, 10: 7, 12: 10, 15: 14}


@dataclass
class Told:
    """What the teacher gives for each of ``VIEWS`` of each image; their number is V.

    Attributes:
        stages: Features by the student's part, float16 (V, N, C, H, W).
        hidden: What its head is given (V, N, 1280).
        scores: Class scores (V, N, 2).
    """

    stages: dict[int, Tensor]
    hidden: Tensor
    scores: Tensor


@torch.inference_mode()
def listen(teacher: nn.Module, images: Tensor, picked: Tensor) -> Told:
    """Ask the teacher about every image in each of ``VIEWS``.

    Args:
        teacher: An EfficientNet-Lite0.
        images: uint8 (N, 1, 224, 224).
        picked: Channels of its 192 that the student has at 7 x 7.
    """
    whole: Any = teacher
    parts: dict[str | int, list[list[Tensor]]] = {}
    for k in VIEWS:
        row: dict[str | int, list[Tensor]] = {}
        for at in range(0, len(images), 64):
            x = to_input(dihedral(images[at : at + 64], k), **PIXELS)
            with torch.autocast("cpu", torch.bfloat16):
                x = whole._swish(whole._bn0(whole._conv_stem(x)))
                for number, block in enumerate(whole._blocks):
                    x = block(x)
                    for part, known in STAGES.items():
                        if known == number:
                            seen = x[:, picked] if part == 15 else x
                            row.setdefault(part, []).append(seen.half())
                x = whole._swish(whole._bn1(whole._conv_head(x))).float().mean((2, 3))
            row.setdefault("hidden", []).append(x.half())
            row.setdefault("scores", []).append(whole._fc(x))
        for name, pieces in row.items():
            parts.setdefault(name, []).append([torch.cat(pieces)])
    told = {name: torch.stack([p[0] for p in rows]) for name, rows in parts.items()}
    return Told({part: told[part] for part in STAGES}, told["hidden"], told["scores"])


@torch.inference_mode()
def asked(teacher: nn.Module, images: Tensor) -> Tensor:
    """Class scores of the teacher, for each of ``VIEWS`` of each image (V, N, 2)."""
    rows = []
    with torch.autocast("cpu", torch.bfloat16):
        for k in VIEWS:
            parts = [
                teacher(to_input(dihedral(images[at : at + 64], k), **PIXELS)).float()
                for at in range(0, len(images), 64)
            ]
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def jitter(x: Tensor, generator: torch.Generator, shift: int) -> Tensor:
    """Random shift by up to ``shift`` pixels, brightness and contrast, on a uint8 batch."""
    n = len(x)
    side = x.shape[-1]
    x = functional.pad(x.float(), [shift] * 4, mode="reflect")
    at = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    rows = [x[i, :, at[0, i] : at[0, i] + side, at[1, i] : at[1, i] + side] for i in range(n)]
    gain = 0.85 + 0.3 * torch.rand(n, 1, 1, 1, generator=generator)
    offset = 20 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    return (torch.stack(rows) * gain + offset).clamp(0, 255)


class At(NamedTuple):
    """Which images, each in which of ``VIEWS``, and which part of them, px."""

    view: Tensor
    image: Tensor
    top: int = 0
    left: int = 0


class Tutor:
    """Losses of the student against what the teacher has told.

    Args:
        student: A torchvision MobileNetV3-Large.
        images: uint8 (N, 1, 224, 224).
        told: What the teacher gives for them.
        expert: The experts' probability of a defect (N,).
    """

    def __init__(self, student: nn.Module, images: Tensor, told: Told, expert: Tensor) -> None:
        self.student: Any = student
        self.images, self.told = images, told
        self.spread = {part: v[0].float().var() for part, v in told.stages.items()}
        self.hidden_spread = told.hidden.float().var()
        self.hard = torch.stack([1 - expert, expert], 1).clamp(0.03, 0.97)
        soft = (told.scores / 1.5).softmax(2)
        self.targets = 0.35 * soft + 0.35 * soft.mean(0, keepdim=True) + 0.3 * self.hard

    def listen_to(self, scores: Tensor) -> None:
        """Follow these class scores (V, N, 2), averaged over the views, and the experts, alike."""
        soft = scores.softmax(2).mean(0, keepdim=True)
        self.targets = (0.5 * soft + 0.5 * self.hard).expand(len(VIEWS), -1, -1)

    def seen(self, picked: Tensor, views: Tensor) -> Tensor:
        """The named images, each in its own symmetry."""
        rows = [
            dihedral(self.images[i : i + 1], VIEWS[k])[0]
            for i, k in zip(picked.tolist(), views.tolist(), strict=True)
        ]
        return torch.stack(rows)

    def apart(self, part: int, x: Tensor, at: At) -> Tensor:
        """Mean squared error of a feature, relative to the teacher's variance."""
        told = self.told.stages[part][at.view, at.image]
        cell, side = SIDE // told.shape[-1], x.shape[-1]
        top, left = at.top // cell, at.left // cell
        told = told[:, :, top : top + side, left : left + side]
        return functional.mse_loss(x, told.float()) / self.spread[part]

    def through(self, x: Tensor, first: int, last: int, at: At) -> tuple[Tensor, Tensor]:
        """Parts ``first`` to ``last`` of the student: what they give, how far from the teacher."""
        loss = torch.zeros(())
        for part in range(first, last + 1):
            x = self.student.features[part](x)
            if part in STAGES:
                loss = loss + self.apart(part, x, at)
        return x, loss

    def answered(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """From the last feature: cross entropy with the targets, and the hidden layer's error."""
        head = self.student.classifier
        hidden = head[1](head[0](self.student.avgpool(x).flatten(1)))
        told = self.told.hidden[at.view, at.image].float()
        error = functional.mse_loss(hidden, told) / self.hidden_spread
        return -(self.targets[at.view, at.image] * head[3](hidden).log_softmax(1)).sum(
            1
        ).mean(), error

    def drawn(self, picked: Tensor, generator: torch.Generator) -> At:
        """The named images, each in a view of its own."""
        return At(torch.randint(0, len(VIEWS), (len(picked),), generator=generator), picked)

    def by_parts(self, picked: Tensor, generator: torch.Generator, side: int) -> Tensor:
        """The early parts on a piece of the images, the late ones on what the teacher gives."""
        at = self.drawn(picked, generator)
        top, left = 16 * torch.randint(0, (SIDE - side) // 16 + 1, (2,), generator=generator)
        piece = At(at.view, at.image, int(top), int(left))
        x = self.seen(picked, at.view)[:, :, top : top + side, left : left + side]
        _, early = self.through(to_input(x, **IMAGENET), 0, CUT - 1, piece)
        given = self.told.stages[CUT - 1][at.view, at.image].float()
        given = given.contiguous(memory_format=torch.channels_last)
        x, late = self.through(given, CUT, 16, at)
        answer, hidden = self.answered(x, at)
        return early + late + hidden + answer

    def whole(self, picked: Tensor, generator: torch.Generator, side: int) -> Tensor:
        """All of it, on images shifted and lit differently."""
        at = self.drawn(picked, generator)
        x = to_input(jitter(self.seen(picked, at.view), generator, side // 28), **IMAGENET)
        answer, hidden = self.answered(self.student.features(x), at)
        return answer + 0.2 * hidden

    def last(self, picked: Tensor, generator: torch.Generator, side: int) -> Tensor:
        """The same, but for the answers alone."""
        at = self.drawn(picked, generator)
        x = to_input(jitter(self.seen(picked, at.view), generator, side // 28), **IMAGENET)
        return self.answered(self.student.features(x), at)[0]
