"""Make the environments of converters and quantizers that cannot live beside pqbench."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from pqbench.assets.converters import READY, Environment, folders_of, last_line, run_line
from pqbench.core.errors import UnavailableError, UnsupportedError
from pqbench.core.files import write_json

OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeout|Temporary failure|"
                     r"Max retries exceeded|Network is unreachable|ProxyError")  # fmt: skip
_SHOWN = re.compile(r"^\s*Downloading (\S+)(.*)$")
PATIENCE = ("--retries", "2", "--timeout", "20")  # of pip; alone it tries for minutes


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
            f"Python cannot make an environment: {last_line(made.stdout + made.stderr)}",
            hint="on Debian and Ubuntu: apt install python3-venv",
        )
    python = str(environment.python)
    if environment.behind:
        _look_behind(environment)
    _pip([python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", *PATIENCE,
          *environment.requirements], say)  # fmt: skip
    say(f"{environment.name}: trying it")
    # Programs are run this way, too: without the user's packages, without the current folder.
    tried = run_line(environment, "; ".join(f"import {name}" for name in environment.modules))
    if tried.returncode != 0:
        raise UnsupportedError(
            f"what was installed for {environment.name} cannot be imported: "
            f"{last_line(tried.stderr)}",
            hint="the tool does not support this system or this version of Python",
        )
    pinned = [re.split(r"[\[=]", requirement)[0] for requirement in environment.requirements]
    names = [*pinned, *environment.behind]
    code = (
        "import json, importlib.metadata as m; "
        f"print(json.dumps({{n: m.version(n) for n in {names}}}))"
    )
    write_json(environment.folder / READY, json.loads(run_line(environment, code).stdout))


def _look_behind(environment: Environment) -> None:
    """Let the environment find packages of pqbench's own, after those that it has itself."""
    own = run_line(environment, "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
    path = Path(own.strip()) / "pqbench_behind.pth"
    path.write_text("".join(f"{folder}\n" for folder in folders_of(environment.behind)), "utf-8")


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
