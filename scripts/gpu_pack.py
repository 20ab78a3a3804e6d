"""Pack what ``gpu_check.py`` needs on a machine with a GPU and no network.

The pack is one tar in parts: the committed source, the wheels of pqbench's requirements that the
other machine lacks, an Imagenette folder with the 500 images that no pretrained model has seen, and
``run.sh``, which joins the parts, checks their hashes, installs the wheels into a folder of their
own and runs the check.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("demo", "gpu")
# Data of an extra that this check does not score: large.
NOT_SCORED = ("elpv-dataset",)
CLEAN = "ILSVRC2012_val_*"
RUN = """#!/usr/bin/env bash
# Join the parts beside this file, check them, install their wheels into a folder of their own and
# run the GPU check:   bash run.sh [WORK_FOLDER [OPTION OF gpu_check.py ...]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$here/work}
shift || true
python=${PYTHON:-python3}
(cd "$here" && sha256sum --check --quiet parts.sha256)
mkdir -p "$work"
cat "$here"/part.* | tar -x -C "$work"
"$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \\
    --upgrade --target "$work/site" "$work"/wheels/*.whl
export PYTHONPATH="$work/source:$work/site"
exec "$python" "$work/source/scripts/gpu_check.py" --images "$work/images" "$@"
"""


def required(have: Iterable[str], without: Iterable[str], python: str) -> dict[str, str]:
    """What pqbench needs and the other machine lacks, by name: the version used here.

    Args:
        have: Names of the distributions that are installed there.
        without: Names to leave out, with whatever only they need.
        python: Version of Python there, such as ``3.12``.

    Returns:
        ``==1.2.3`` by name; of what is not installed here, what pqbench declares.
    """
    skip = {canonicalize_name(name) for name in (*have, *without)}
    there = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "sys_platform": "linux",
    }
    found: dict[str, str] = {}
    todo = [f"pqbench[{','.join(EXTRAS)}]"]
    while todo:
        asked = Requirement(todo.pop())
        name = canonicalize_name(asked.name)
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = str(asked.specifier)  # of an extra; what it needs is not known here
            continue
        found[name] = f"=={distribution.version}"
        for text in distribution.requires or []:
            need = Requirement(text)
            extras = ("", *asked.extras)
            marker = need.marker
            if marker and not any(marker.evaluate({**there, "extra": e}) for e in extras):
                continue
            if canonicalize_name(need.name) not in skip:
                todo.append(f"{need.name}[{','.join(need.extras)}]" if need.extras else need.name)
    del found["pqbench"]
    return found


def download(wanted: dict[str, str], python: str, folder: Path) -> None:
    """Fetch the wheels of exactly these versions for Linux on x86-64 and another Python.

    Raises:
        SystemExit: The index has no such wheel.
    """
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 11, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    target = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    for platform in platforms:
        target += ["--platform", platform]
    names = [f"{name}{version}" for name, version in sorted(wanted.items())]
    # A pure package that is published as source alone is built here: it fits every machine.
    sources = [name for name in names if name.startswith("antlr4-python3-runtime")]
    binary = [name for name in names if name not in sources]
    commands = [[*pip, *target, *binary]]
    for name in sources:
        commands.append([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"])
        commands[-1] += ["--wheel-dir", str(folder), name]
    for command in commands:
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("gpu_check: pip could not fetch what it names above")


def take_images(images: Path, folder: Path) -> int:
    """Copy the images of Imagenette that come from ImageNet's validation set; how many they are.

    Raises:
        SystemExit: The folder has no such image.
    """
    taken = 0
    for source in sorted(images.glob(f"*/*/{CLEAN}")):
        target = folder / source.relative_to(images)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        taken += 1
    if not taken:
        raise SystemExit(
            f"gpu_check: no {CLEAN} in {images}: give Imagenette's folder (train/, val/)"
        )
    return taken


def split(source: Path, folder: Path, part_bytes: int) -> list[Path]:
    """Cut a file into ``part.000`` and so on, with their SHA-256 in ``parts.sha256``."""
    parts, lines = [], []
    with source.open("rb") as stream:
        while block := stream.read(part_bytes):
            part = folder / f"part.{len(parts):03d}"
            part.write_bytes(block)
            parts.append(part)
            lines.append(f"{hashlib.sha256(block).hexdigest()}  {part.name}\n")
    (folder / "parts.sha256").write_text("".join(lines), encoding="ascii")
    return parts


def pack(
    folder: Path,
    images: Path,
    have: Sequence[str],
    without: Sequence[str] = (),
    python: str = "3.12",
    part_mb: float = 50,
) -> list[Path]:
    """Write the pack.

    Args:
        folder: Where the parts and ``run.sh`` go; made if missing, must be empty.
        images: An Imagenette folder, with ``train`` and ``val``.
        have: Names of the distributions that the other machine has.
        without: Names of distributions to leave out.
        python: Version of Python there.
        part_mb: Largest size of a part, MB (10^6 bytes).

    Returns:
        The parts, in order.

    Raises:
        SystemExit: Something is missing here, or the folder has files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"gpu_check: {folder} has files; give an empty folder")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        content = Path(scratch, "content")
        for name in ("source", "wheels", "images"):
            (content / name).mkdir(parents=True)
        archive = Path(scratch, "source.tar")
        command = ["git", "-C", str(ROOT), "archive", "--format=tar", "-o", str(archive), "HEAD"]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("gpu_check: the pack is made from a git checkout; this is none")
        with tarfile.open(archive) as tar:
            tar.extractall(content / "source", filter="data")
        wanted = required(have, [*without, *NOT_SCORED], python)
        download(wanted, python, content / "wheels")
        count = take_images(images, content / "images")
        whole = Path(scratch, "whole.tar")
        with tarfile.open(whole, "w") as tar:
            for name in sorted(p.name for p in content.iterdir()):
                tar.add(content / name, arcname=name)
        parts = split(whole, folder, int(part_mb * 1e6))
    (folder / "run.sh").write_text(RUN, encoding="utf-8")
    print(f"gpu_check: {len(wanted)} wheels, {count} images, {len(parts)} parts in {folder}")
    return parts
