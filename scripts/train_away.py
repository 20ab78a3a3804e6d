"""Train pruned networks on another machine, with a GPU say, and bring their weights home.

Here, where the data are, prune once into a fresh folder and pack the dense model and the prepared
training images that this left there:

    python -m pqbench model=resnet20 dataset=cifar10 ... 'compress=[prune]' outputs=FRESH
    python scripts/train_away.py pack FOLDER NAME FRESH

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
from pqbench.compress.prune import Prune  # noqa: E402
from pqbench.core.artifact import Artifact  # noqa: E402
from pqbench.core.errors import ConfigError  # noqa: E402
from pqbench.core.split import PreparedSplit  # noqa: E402
from pqbench.core.step import StepData  # noqa: E402
from pqbench.training.finetune import Finetune  # noqa: E402

ACROSS = 64  # images side by side in one row of a packed picture, at most
TALL = 16_000  # pixels: WebP has no larger pictures than 16,383


def pack_images(images: npt.NDArray[np.uint8], folder: Path) -> None:
    """Write images as lossless WebP pictures of many (CIFAR-10: 93 MB instead of 154).

    Args:
        images: uint8 (N, H, W, 3).
        folder: Where to; made.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    count, height, width = images.shape[:3]
    (folder / "shape.json").write_text(json.dumps([count, height, width]), encoding="utf-8")
    across = max(1, min(ACROSS, TALL // width))
    each = across * max(1, TALL // height)
    for start in range(0, count, each):
        part = images[start : start + each]
        filled = np.zeros((-(-len(part) // across) * across, height, width, 3), np.uint8)
        filled[: len(part)] = part
        rows = filled.reshape(-1, across, height, width, 3).swapaxes(1, 2)
        picture = Image.fromarray(rows.reshape(-1, across * width, 3))
        picture.save(folder / f"{start:06d}.webp", lossless=True, quality=30, method=2)


def unpack_images(folder: Path) -> npt.NDArray[np.uint8]:
    """What ``pack_images`` wrote, uint8 (N, H, W, 3)."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    count, height, width = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
    parts = []
    for path in sorted(folder.glob("*.webp")):
        sheet = np.asarray(Image.open(path).convert("RGB"))
        rows = sheet.reshape(-1, height, sheet.shape[1] // width, width, 3).swapaxes(1, 2)
        parts.append(rows.reshape(-1, height, width, 3))
    return np.concatenate(parts)[:count]


def made_by_pruning(outputs: Path) -> tuple[Path, Path]:
    """Folders of the dense model and the train split that one ``compress=[prune]`` left.

    Raises:
        SystemExit: There is not one of each.
    """
    stages = outputs / "cache" / "stages"
    artifacts = [Artifact.load(path.parent) for path in stages.glob("*/artifact.json")]
    before = [a.lineage[:-1] for a in artifacts if a.lineage[-1].action == "prune"]
    dense = [a.folder for a in artifacts if a.lineage in before]
    manifests = stages.glob("*/manifest.json")
    train = [p.parent for p in manifests if PreparedSplit.load(p.parent).name == "train"]
    if len(dense) != 1 or len(train) != 1:
        raise SystemExit(
            f"train_away: {outputs} has {len(dense)} pruned models and {len(train)} train splits, "
            "not one of each: run one compress=[prune] with outputs= a folder that does not exist"
        )
    return dense[0], train[0]


def pack(folder: Path, name: str, outputs: Path) -> None:
    """Copy a model's artifact and its training samples, images as pictures.

    Raises:
        SystemExit: ``outputs`` has not what is needed, or the pack has this name already.
    """
    artifact, split = made_by_pruning(outputs)
    target = folder / name
    if target.exists():
        raise SystemExit(f"train_away: {target} exists: take another name, or remove it")
    shutil.copytree(artifact, target / "artifact")
    (target / "train").mkdir()
    images = PreparedSplit.load(split).normalization
    for path in sorted(split.iterdir()):
        if path.suffix == ".npy" and path.stem in images:
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
    step = Prune(**job["prune"])
    return f"{job['model']}-{step.criterion}-{step.pruning_ratio}"


def read_jobs(file: Path, folder: Path) -> list[dict[str, Any]]:
    """The jobs of a file, checked.

    Raises:
        SystemExit: One has a wrong setting, no model in the pack, or the name of another.
    """
    jobs: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    names = set()
    for number, job in enumerate(jobs):
        try:
            Finetune(**job["tune"])
            name, place = name_of(job), folder / job["model"]
        except (KeyError, TypeError, ConfigError) as error:
            raise SystemExit(f"train_away: {file}, job {number}: {error}") from error
        if not place.is_dir():
            raise SystemExit(f"train_away: {file}, job {number}: no {place}: pack it first")
        if name in names:
            raise SystemExit(f"train_away: {file}, job {number}: a second {name}")
        names.add(name)
    return jobs


def train(folder: Path, out: Path, job: dict[str, Any], threads: int) -> None:
    """Prune, tune, save."""
    import torch
    from safetensors.torch import save_file

    from pqbench.nets.checkpoint import load_network

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
    packing.add_argument("folder", type=Path, help="the pack; made")
    packing.add_argument("name", help="the model's in the jobs")
    packing.add_argument("outputs", type=Path, help="where one compress=[prune] ran, no more")
    training = commands.add_parser("train", help="there: the jobs")
    for name in ("folder", "jobs", "out"):
        training.add_argument(name, type=Path)
    training.add_argument("--workers", type=int, default=1, help="trainings at a time")
    training.add_argument("--threads", type=int, default=2, help="CPU threads of each")
    training.add_argument("--minutes", type=float, default=60, help="stop after so many")
    args = parser.parse_args()
    if args.command == "pack":
        pack(args.folder, args.name, args.outputs)
        return 0
    jobs = read_jobs(args.jobs, args.folder)
    until = time.monotonic() + 60 * args.minutes
    missing = train_all(args.folder, jobs, args.out, args.workers, until, args.threads)
    print(f"train_away: {len(jobs) - missing} of {len(jobs)} trained")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
