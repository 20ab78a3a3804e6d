"""The smallest real sweep, as its own process: a user's network and step on a few drawn images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODEL = """
name: tiny
network: {_target_: user_steps.tiny_network}
head: "4"
weights: none
preprocess: {resize: 32, crop: 32}
"""
STEPS = {
    "round": "{_target_: user_steps.Round, digits: 2}",
    "coarse": "{_target_: user_steps.Round, digits: 1}",
    "crash": "{_target_: user_steps.Crash}",
    "sleep": "{_target_: user_steps.Sleep}",
}
SHORT = [
    "protocol.batch_sizes=[1]",
    "protocol.max_seconds=0.1",
    "protocol.block_s=0.02",
    "protocol.min_pairs=2",
    "protocol.processes=1",
    "protocol.max_disturbed=0",
    "protocol.quiet_wait_s=0",
    "protocol.warmup_s=0.02",
    "threads=1",
]
FOLDER = ["dataset=imagefolder", "dataset.root=images"]
FAST = ["model=tiny", *FOLDER, "protocol=quick", *SHORT]


def prepare(folder: Path) -> None:
    """Images and a configuration folder."""
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("dark", "light")):
            for i in range(count):
                path = folder / "images" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shade = 40 + 150 * number + 5 * i + (2 if split == "val" else 0)
                Image.new("RGB", (48, 40), (shade, shade, 255 - shade)).save(path)
    for group in ("model", "compress"):
        (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "model" / "tiny.yaml").write_text(MODEL)
    for name, node in STEPS.items():
        text = f"# @package compress\n{name}: {node}\n"
        (folder / "conf" / "compress" / f"{name}.yaml").write_text(text)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pqbench", "--config-dir", "conf", *FAST, *arguments]


def environment(**extra: str) -> dict[str, str]:
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), str(HERE), *([given] if given else [])])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "160", **extra}


def start(folder: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(**{"XDG_RUNTIME_DIR": str(folder), **extra}),  # its own device lock
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str, **extra: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    process = start(folder, *arguments, **extra)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
