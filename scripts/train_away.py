"""Train pruned networks on another machine, with a GPU say, and bring their weights home.

Here, where the data are, pack a model's prepared training images and its artifact:

    python scripts/train_away.py pack FOLDER NAME ARTIFACT_FOLDER TRAIN_SPLIT_FOLDER

There, prune by each ratio and criterion and tune each network, several at a time:

    python scripts/train_away.py train FOLDER JOBS.json OUT --workers 5 --minutes 5

``JOBS.json`` is a list of ``{"model": NAME, "prune": {...}, "tune": {...}}`` with the settings of
the steps ``prune`` and ``distill``; the first are the most wanted. Each result is a state dict in
half precision (``OUT/NAME-CRITERION-RATIO.safetensors``) beside a card with the settings, losses,
seconds and device. The step ``trained`` (scripts/bench/accuracy/trained.py) puts it in place of a
network that was pruned in the same way, so that it is scored and timed here as any other.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROWS = 64  # images side by side in one row of a packed picture
TALL = 16_000  # pixels: WebP has no taller pictures than 16,383


def pack_images(images: npt.NDArray[np.uint8], folder: Path) -> None:
    """Write images (N, H, W, C) as lossless WebP pictures of many, grey ones with one channel."""
    from PIL import Image

    folder.mkdir(parents=True)
    grey = bool((images[..., :1] == images).all()) if len(images) < 5000 else False
    count, height, width = images.shape[:3]
    if grey:
        images = images[..., :1]
    (folder / "shape.json").write_text(json.dumps([count, height, width, 3]), encoding="utf-8")
    each = max(1, TALL // height) * max(1, min(ROWS, TALL // width))
    across = max(1, min(ROWS, TALL // width))
    for start in range(0, count, each):
        part = np.asarray(images[start : start + each])
        lines = -(-len(part) // across)
        filled = np.zeros((lines * across, *part.shape[1:]), np.uint8)
        filled[: len(part)] = part
        sheet = filled.reshape(lines, across, height, width, -1).swapaxes(1, 2)
        sheet = sheet.reshape(lines * height, across * width, -1)
        picture = Image.fromarray(sheet[..., 0] if grey else sheet).convert("RGB")
        picture.save(folder / f"{start:06d}.webp", lossless=True, quality=30, method=2)


def unpack_images(folder: Path) -> npt.NDArray[np.uint8]:
    """What ``pack_images`` wrote, (N, H, W, 3)."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    count, height, width, _ = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
    parts = []
    for path in sorted(folder.glob("*.webp")):
        sheet = np.asarray(Image.open(path).convert("RGB"))
        lines, across = sheet.shape[0] // height, sheet.shape[1] // width
        parts.append(
            sheet.reshape(lines, height, across, width, 3)
            .swapaxes(1, 2)
            .reshape(-1, height, width, 3)
        )
    return np.concatenate(parts)[:count]


def pack(folder: Path, name: str, artifact: Path, split: Path) -> None:
    """Copy a model's artifact and its training images, these as pictures."""
    target = folder / name
    shutil.copytree(artifact, target / "artifact")
    (target / "train").mkdir()
    for path in sorted(split.iterdir()):
        if path.suffix == ".npy" and path.name != "labels.npy":
            pack_images(np.load(path, mmap_mode="r"), target / "train" / path.stem)
        else:
            shutil.copy(path, target / "train")
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    print(f"train_away: {target}: {size / 1e6:.1f} MB")


def unpack(folder: Path) -> None:
    """Make the prepared splits of a pack, once."""
    for pictures in sorted(p for p in folder.glob("*/train/*") if p.is_dir()):
        target = pictures.with_suffix(".npy")
        if not target.exists():
            np.save(target, unpack_images(pictures))


def name_of(job: dict[str, Any]) -> str:
    """Name of a job's result."""
    prune = job["prune"]
    return f"{job['model']}-{prune['criterion']}-{prune['pruning_ratio']}"


def train(folder: Path, out: Path, job: dict[str, Any], threads: int) -> None:
    """Prune, tune, save."""
    import torch
    from safetensors.torch import save_file

    from pqbench.compress.prune import Prune
    from pqbench.core.artifact import Artifact
    from pqbench.core.split import PreparedSplit
    from pqbench.core.step import StepData
    from pqbench.nets.checkpoint import load_network
    from pqbench.training.finetune import Finetune

    torch.set_num_threads(threads)
    place = folder / job["model"]
    dense = Artifact.load(place / "artifact")
    data = StepData(
        train=PreparedSplit.load(place / "train"), seed=0, threads=threads, teacher=dense
    )
    with tempfile.TemporaryDirectory() as scratch:
        for step in ("pruned", "tuned"):
            Path(scratch, step).mkdir()
        pruned = Prune(**job["prune"]).apply(dense, data, Path(scratch, "pruned"))
        tuned = Finetune(**job["tune"]).apply(pruned, data, Path(scratch, "tuned"))
        network = load_network(tuned)
    state = {
        n: (v.half() if v.is_floating_point() else v).contiguous()
        for n, v in network.state_dict().items()
    }
    save_file(state, out / f"{name_of(job)}.safetensors.part")
    card = {
        **job,
        "lineage": [asdict(entry) for entry in tuned.lineage[-2:]],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    text = json.dumps(card, indent=1, default=str)
    (out / f"{name_of(job)}.json").write_text(text, encoding="utf-8")
    (out / f"{name_of(job)}.safetensors.part").rename(out / f"{name_of(job)}.safetensors")


def train_all(
    folder: Path, jobs: list[dict[str, Any]], out: Path, workers: int, until: float, threads: int
) -> int:
    """Run the jobs in order, several at a time, until the time is over; how many are missing."""
    unpack(folder)
    out.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    waiting, running = list(jobs), {}
    began = time.monotonic()
    while (waiting or running) and time.monotonic() < until:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            process = context.Process(target=train, args=(folder, out, job, threads))
            process.start()
            running[process] = (name_of(job), time.monotonic())
        time.sleep(0.2)
        for process in [p for p in running if not p.is_alive()]:
            name, since = running.pop(process)
            now = time.monotonic()
            print(
                f"{now - began:6.1f} s {name}: {now - since:.1f} s, {process.exitcode}", flush=True
            )
    for process, (name, _) in running.items():
        print(f"stopped: {name}", flush=True)
        process.kill()
    done = {path.stem for path in out.glob("*.safetensors")}
    return sum(name_of(job) not in done for job in jobs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="here: a model and its training images")
    for name in ("folder", "name", "artifact", "split"):
        packing.add_argument(name, type=str if name == "name" else Path)
    training = commands.add_parser("train", help="there: the jobs")
    for name in ("folder", "jobs", "out"):
        training.add_argument(name, type=Path)
    training.add_argument("--workers", type=int, default=1, help="trainings at a time")
    training.add_argument("--threads", type=int, default=2, help="CPU threads of each")
    training.add_argument("--minutes", type=float, default=60, help="stop after so many")
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.folder, args.name, args.artifact, args.split)
        return 0
    jobs = json.loads(args.jobs.read_text(encoding="utf-8"))
    until = time.monotonic() + 60 * args.minutes
    missing = train_all(args.folder, jobs, args.out, args.workers, until, args.threads)
    print(f"train_away: {len(jobs) - missing} of {len(jobs)} trained")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
