"""Installed libraries and pqbench's own commit; nothing is imported to find out."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    "pqbench",
    "torch",
    "torchvision",
    "torchao",
    "torch-pruning",
    "timm",
    "lightning",
    "torchmetrics",
    "nncf",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "ncnn",
    "pnnx",
    "mnn",
    "tensorrt",
    "tensorrt-rtx-cu13-libs",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "cuda-bindings",
    "pycuda",
    "numpy",
    "scipy",
    "pillow",
    "pandas",
    "pyarrow",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "safetensors",
    "triton",
)


@functools.cache
def versions() -> dict[str, str]:
    """Version of each library that can decide a result, where installed."""
    import importlib.metadata

    found: dict[str, str] = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def installed() -> list[str]:
    """Every installed distribution as ``name==version``, sorted: what ``pip install -r`` takes."""
    import importlib.metadata

    found = {
        (d.metadata["Name"] or "").lower().replace("_", "-"): d.version
        for d in importlib.metadata.distributions()
    }
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name]


@functools.cache
def git_state() -> dict[str, Any]:
    """Commit of pqbench's source tree and whether it was changed; nulls in an installed package."""
    root = Path(__file__).parents[2]
    unknown = {"commit": None, "dirty": None}
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
