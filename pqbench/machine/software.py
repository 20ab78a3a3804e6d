"""Installed libraries and pqbench's own commit; nothing is imported to find out."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = "pqbench"
# Extras with which pqbench itself is built and tested; nothing of them runs in an experiment.
_FOR_BUILDING = ("dev", "docs")
# Parts of declared libraries that have versions of their own.
_PARTS = ("triton", "onnx-ir", "cuda-bindings", "pycuda")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"extra\s*==\s*[\"']([\w.-]+)[\"']")


@functools.cache
def versions() -> dict[str, str]:
    """Version of pqbench and of each library that it declares, where installed.

    What is declared is read from the package's own metadata: a backend that is added with its
    library in ``setup.cfg`` needs no entry here. A source tree that was never installed declares
    nothing, so everything that is installed counts.
    """
    import importlib.metadata

    try:
        declared = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return dict(line.split("==", 1) for line in installed())
    names = {PACKAGE, *_PARTS}
    for requirement in declared:
        name, extra = _NAME.match(requirement), _EXTRA.search(requirement)
        if name and not (extra and extra[1] in _FOR_BUILDING):
            names.add(_normalized(name[0]))
    found: dict[str, str] = {}
    for one in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[one] = importlib.metadata.version(one)
    return found


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-")


@functools.cache
def installed() -> list[str]:
    """Every installed distribution as ``name==version``, sorted: what ``pip install -r`` takes."""
    import importlib.metadata

    found = {
        _normalized(d.metadata["Name"] or ""): d.version for d in importlib.metadata.distributions()
    }
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name]


def _archived_commit(path: Path) -> str | None:
    try:
        found = re.fullmatch(r"node: ([0-9a-f]{40})\s*", path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return found.group(1) if found else None


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of pqbench's source tree and whether it was changed; nulls in an installed package.

    An archive that git made has no history, but names its commit in ``.git_archival.txt``.
    """
    root = Path(__file__).parents[2]
    unknown = {"commit": _archived_commit(root / ".git_archival.txt"), "dirty": None}
    if not (root / ".git").exists():
        return unknown
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--verify", "-q", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        status = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return unknown
    return {
        "commit": commit.stdout.strip() or None,
        "dirty": bool(status.stdout.strip()) if status.returncode == 0 else None,
    }
