"""What code and which libraries a result depends on: part of the name under which it is found."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from pqbench.machine.software import versions

PACKAGE = Path(__file__).parents[1]
# What decides how a result is shown, logged or asked for, but never what it is.
WITHOUT = ("app", "report", "testing", "tracking")

# Libraries that compose, keep, log, draw or launch, but never decide a figure.
NO_CAUSE = (
    *("pqbench", "hydra-core", "omegaconf", "pyyaml", "pydantic", "jsonschema", "filelock"),
    *("mlflow", "matplotlib", "rich", "pandas", "pyarrow", "psutil", "py-cpuinfo"),
    *("optuna", "hydra-submitit-launcher", "hydra-ray-launcher", "hydra-joblib-launcher"),
    *("psycopg", "nvidia-ml-py"),
)


@functools.cache
def code_hash() -> str:
    """Hash of pqbench's own code: all of it but ``WITHOUT`` and the commands in its root."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE)
        if len(path.parts) == 1 or path.parts[0] in WITHOUT:
            continue
        digest.update(path.as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of the declared libraries that may decide a result: all but ``NO_CAUSE``."""
    return {name: version for name, version in versions().items() if name not in NO_CAUSE}
