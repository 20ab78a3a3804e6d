"""Environments of their own for converters whose libraries cannot live beside pqbench's.

Each is a virtual environment in the user's cache folder, made by ``python -m pqbench.runtimes
install NAME`` with the same Python; it is used as a program, never imported from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.files import write_json

READY = "ready.json"
OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Temporary failure|"
                     r"Max retries exceeded|Network is unreachable|ProxyError")  # fmt: skip
_SHOWN = re.compile(r"^\s*Downloading (\S+)(.*)$")
PATIENCE = ("--retries", "2", "--timeout", "20")  # of pip; alone it tries for minutes


@dataclass(frozen=True)
class Environment:
    """What is installed for one converter.

    Attributes:
        name: As it is typed.
        requirements: What pip installs, versions pinned.
        modules: What must be importable afterwards.
        size: How much disk it takes, in words.
    """

    name: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    size: str

    @property
    def command(self) -> str:
        """What makes it."""
        return f"python -m pqbench.runtimes install {self.name}"

    @property
    def folder(self) -> Path:
        """Where it is: other pins, or another Python, have another folder."""
        pins = "\n".join((*self.requirements, sys.version.split()[0]))
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
    (
        *("litert-torch==0.10.0", "litert-converter==0.5.0", "ai-edge-litert==2.3.0"),
        *("torch==2.14.1", "torchvision==0.29.2", "torchao==0.18.0", "jax==0.10.2"),
        *("jaxlib==0.10.2", "numpy==2.4.6"),
    ),
    ("litert_torch",),
    "7 GB on Linux, half of it CUDA libraries that come with PyTorch",
)
ENVIRONMENTS: Mapping[str, Environment] = {LITERT.name: LITERT}


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
            f"the converter for {environment.name}, which has an environment of its own, is not "
            "installed",
            hint=environment.command,
        )
    return environment


def run_converter(
    environment: Environment, script: Path, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run a script in the environment, without anything of pqbench's own.

    Raises:
        UnavailableError: The environment is not there.
    """
    command = [str(required(environment).python), "-P", str(script), *arguments]
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=clean
    )


def install(environment: Environment, say: Callable[[str], None]) -> Path:
    """Make the environment, unless it is there; one process at a time.

    What an interrupted attempt left is made anew.

    Args:
        environment: Which.
        say: Takes a line about what happens.

    Returns:
        Its folder.

    Raises:
        UnavailableError: There is no network, a package cannot be had, or Python cannot make
            environments.
        UnsupportedError: What was installed cannot be imported.
    """
    folder = environment.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if environment.ready():
            say(f"{environment.name}: is there already, in {folder}")
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{environment.name}: into {folder} ({environment.size})")
        try:
            _make(environment, say)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    say(f"{environment.name}: ready")
    return folder


def _make(environment: Environment, say: Callable[[str], None]) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(environment.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise UnavailableError(
            f"Python cannot make an environment: {_last(made.stdout + made.stderr)}",
            hint="on Debian and Ubuntu: apt install python3-venv",
        )
    python = str(environment.python)
    _pip([python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *PATIENCE,
          *environment.requirements], say)  # fmt: skip
    say(f"{environment.name}: trying it")
    imports = "; ".join(f"import {module}" for module in environment.modules)
    tried = subprocess.run(
        [python, "-P", "-c", imports], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        raise UnsupportedError(
            f"what was installed for {environment.name} cannot be imported: {_last(tried.stderr)}",
            hint="the converter does not support this system or this version of Python",
        )
    pins = (requirement.partition("==") for requirement in environment.requirements)
    write_json(environment.folder / READY, {name: version for name, _, version in pins})


def _pip(command: Sequence[str], say: Callable[[str], None]) -> None:
    """Run pip; each download becomes a line, a failure one line."""
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as running:
        try:
            for line in running.stdout or ():
                lines.append(line.rstrip())
                shown = _SHOWN.match(line)
                if shown:
                    say(f"  {shown[1].rsplit('/', 1)[-1]}{shown[2]}")
        except BaseException:
            running.terminate()
            raise
    if running.returncode == 0:
        return
    if any(OFFLINE.search(line) for line in lines):
        raise UnavailableError(
            "the package index cannot be reached",
            hint="connect this machine, or name an index that it reaches in PIP_INDEX_URL, and "
            "run the same command again",
        )
    errors = [line for line in lines if line.startswith("ERROR")]
    raise UnavailableError(f"pip cannot install it: {(errors or lines or ['no reason'])[0][:300]}")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
