"""Environments of their own for converters and quantizers that cannot live beside pqbench.

Each is a virtual environment in the user's cache folder, made by ``python -m pqbench.runtimes
install NAME`` with the same Python; it is used as a program, never imported from.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from pqbench.core.errors import UnavailableError

READY = "ready.json"


@dataclass(frozen=True)
class Environment:
    """What is installed for one tool.

    Attributes:
        name: As it is typed.
        tool: What it is, in words, for messages.
        requirements: What pip installs, versions pinned.
        modules: What must be importable afterwards.
        size: How much disk it takes, in words.
        behind: Packages of pqbench's own environment that it uses. That whole environment is
            then searched behind its own, so that only what differs is installed twice. With other
            versions of these packages, or in another place, it is another environment.
    """

    name: str
    tool: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    size: str
    behind: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes it."""
        return f"python -m pqbench.runtimes install {self.name}"

    @property
    def folder(self) -> Path:
        """Where it is: other pins, or another Python, have another folder."""
        borrowed = [f"{name}=={_version(name)}" for name in self.behind]
        borrowed += folders_of(self.behind)
        pins = "\n".join((*self.requirements, *borrowed, sys.version.split()[0]))
        return base_folder() / f"{self.name}-{sha256(pins.encode()).hexdigest()[:10]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        windows = os.name == "nt"
        return self.folder / ("Scripts/python.exe" if windows else "bin/python")

    def ready(self) -> bool:
        """Whether it was made to the end and is still there."""
        return (self.folder / READY).is_file() and self.python.exists()

    def versions(self) -> dict[str, str]:
        """Versions of its requirements, as they were installed."""
        found: dict[str, str] = json.loads((self.folder / READY).read_text(encoding="utf-8"))
        return found


LITERT = Environment(
    "litert",
    "LiteRT's converter",
    (
        *("litert-torch==0.10.0", "litert-converter==0.5.0", "ai-edge-litert==2.3.0"),
        *("torch==2.14.1", "torchvision==0.29.2", "torchao==0.18.0", "jax==0.10.2"),
        *("jaxlib==0.10.2", "numpy==2.4.6"),
    ),
    ("litert_torch",),
    "7 GB on Linux, half of it CUDA libraries that come with PyTorch",
)
MODELOPT = Environment(
    "modelopt",
    "NVIDIA's Model Optimizer",
    ("nvidia-modelopt[onnx]==0.47.0", "onnx==1.21.0"),
    ("modelopt.onnx.quantization",),
    "1 GB",
    behind=("torch",),
)
AIMET = Environment(
    "aimet",
    "Qualcomm's AIMET",
    ("aimet-onnx==2.42.0", "onnxruntime==1.32.0"),
    ("aimet_onnx",),
    "1 GB",
    behind=("torch",),
)
ENVIRONMENTS: Mapping[str, Environment] = {e.name: e for e in (LITERT, MODELOPT, AIMET)}


def base_folder() -> Path:
    """``$XDG_CACHE_HOME/pqbench/runtimes``, or the same below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "pqbench" / "runtimes"


def required(environment: Environment) -> Environment:
    """The environment, if it is there.

    Raises:
        UnavailableError: It is not; the hint says how it is made.
    """
    if not environment.ready():
        raise UnavailableError(
            f"{environment.tool}, which has an environment of its own, is not installed",
            hint=environment.command,
        )
    return environment


def run_program(
    environment: Environment, script: Path, arguments: Sequence[str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in the environment, without anything of pqbench's own.

    Args:
        environment: Which.
        script: The program.
        arguments: What it is given.
        cwd: The folder to run in, for tools that leave files there; None: the current one.

    Raises:
        UnavailableError: The environment is not there.
    """
    command = [str(required(environment).python), "-P", str(script), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=cwd,
        env=_clean(),
    )


def run_line(environment: Environment, code: str) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in the environment, as :func:`run_program` runs a script."""
    return subprocess.run(
        [str(environment.python), "-P", "-c", code],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=_clean(),
    )


def _clean() -> dict[str, str]:
    """The surroundings of a program in an environment: nothing of pqbench's own Python."""
    names = ("PYTHONPATH", "PYTHONHOME")
    return {k: v for k, v in os.environ.items() if k not in names} | {"PYTHONNOUSERSITE": "1"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def folders_of(names: Sequence[str]) -> list[str]:
    """Where installed packages lie."""
    found: dict[str, None] = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[str(Path(str(distribution(name).locate_file(""))).resolve())] = None
    return list(found)


def last_line(text: str) -> str:
    """The last line of what a program said that is not empty, 300 characters of it at most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
