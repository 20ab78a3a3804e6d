"""What code and which libraries a result depends on: part of the name under which it is found."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.machine.software import versions

PACKAGE = Path(__file__).parents[1]
# What decides how a result is shown, logged or asked for, but never what it is.
WITHOUT = ("app", "report", "testing", "tracking")


LIBRARIES = (
    "torch",
    "torchvision",
    "torch-pruning",
    "lightning",
    "nncf",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "numpy",
    "pillow",
    "scipy",
    "timm",
    "torchao",
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
    """Versions of the libraries whose code decides a result, where installed."""
    return {name: version for name, version in versions().items() if name in LIBRARIES}


def users_code(arguments: Any) -> dict[str, str]:
    """Hashes of the user's own packages that ``_target_`` keys below ``arguments`` name.

    Installed libraries are named by their versions instead. Nothing is imported.

    Args:
        arguments: Any nesting of mappings and lists.

    Returns:
        By top-level package or module; empty where only pqbench and libraries are named.
    """
    names = sorted({target.partition(".")[0] for target in _targets(arguments)} - {"pqbench"})
    found = {name: _own_hash(name) for name in names}
    return {name: value for name, value in found.items() if value}


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if isinstance(target, str):
            yield target
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _targets(item)


@functools.cache
def _own_hash(name: str) -> str:
    """Hash of a top-level module's sources; empty if it is installed, built in or missing."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    folders = [Path(p) for p in spec.submodule_search_locations or ()]
    files = [p for folder in folders for p in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin and spec.origin.endswith(".py"):
        files = [Path(spec.origin)]
    if not files or _is_installed(files[0]):
        return ""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _is_installed(file: Path) -> bool:
    """Whether a source file came with Python or by a package manager, and so has a version."""
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return file.is_relative_to(Path(sysconfig.get_path("stdlib")))
