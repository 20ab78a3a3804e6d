"""Torch-TensorRT: whether the one that is installed fits, and its compiler.

Known from 2.11 to 2.14. In all of them a network is compiled in the types that it has itself
("explicit typing"): a precision is a matter of the network, or of the compiler's own autocast.
https://docs.pytorch.org/TensorRT/user_guide/compilation/compilation_settings.html
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.backends.support import first_line
from pqbench.core.errors import OutOfMemoryFailure, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from torch import nn

DISTRIBUTIONS = ("torch-tensorrt", "torch-tensorrt-rtx")
TENSORRT = ("tensorrt-cu13", "tensorrt-cu12", "tensorrt", "tensorrt-rtx-cu13")
HINT = (
    "in an environment of its own: pip install 'pqbench[torch_tensorrt]' (it brings the PyTorch "
    "that it was built for, and TensorRT)"
)
INT8_REASON = (
    "INT8 by Torch-TensorRT is not built here: it takes none but networks that NVIDIA's ModelOpt "
    "quantized, and their quantizers reach an exported graph on a GPU alone"
)
INT8_HINT = "TensorRT's INT8: compress=ort_int8_trt backend=tensorrt"


def check_installed() -> None:
    """Look, without importing it, whether Torch-TensorRT is here and fits what it is linked to.

    Raises:
        UnavailableError: It is not installed, or was built for another PyTorch or TensorRT.
    """
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            wrong = unmet(name)
            if wrong:
                raise UnavailableError(
                    f"{name} {metadata.version(name)} needs {'; '.join(wrong)}", hint=HINT
                )
            return
    raise UnavailableError("torch_tensorrt is not installed", hint=HINT)


def unmet(distribution: str) -> list[str]:
    """What a distribution asks of PyTorch and TensorRT and does not find.

    Returns:
        ``torch<2.15,>=2.14 (2.15.0 is installed)``, ...; empty if it fits.

    Raises:
        PackageNotFoundError: It is not installed itself.
    """
    from packaging.requirements import Requirement

    problems = []
    for text in metadata.requires(distribution) or ():
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        if asked.name != "torch" and not asked.name.startswith("tensorrt"):
            continue
        wanted = f"{asked.name}{asked.specifier}"
        try:
            found = metadata.version(asked.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{wanted} (not installed)")
            continue
        if not asked.specifier.contains(found, prereleases=True):
            problems.append(f"{wanted} ({found} is installed)")
    return problems


def load_library() -> Any:
    """Import Torch-TensorRT, which initializes CUDA.

    Raises:
        UnavailableError: It cannot be imported; the message has its own reason.
    """
    said = io.StringIO()  # it prints some of its failures
    try:
        with contextlib.redirect_stdout(said):
            return import_module("torch_tensorrt")
    except Exception as error:  # it raises bare ones
        raise UnavailableError(
            f"torch_tensorrt cannot be imported: {first_line(error)}", hint=HINT
        ) from error


def compile_network(
    trt: Any,
    network: nn.Module,
    inputs: Sequence[torch.Tensor],
    options: Mapping[str, Any],
    folder: Path,
) -> Any:
    """Compile a network for inputs of these very shapes.

    Args:
        trt: The module.
        network: In eval mode, on its device, in its precision.
        inputs: Examples, on the device and in the types that it will be fed.
        options: Settings of ``torch_tensorrt.dynamo.compile``.
        folder: For what the compiler writes.

    Returns:
        A ``torch.fx.GraphModule`` whose children are engines and what stays in PyTorch.

    Raises:
        UnsupportedError: It cannot be exported or compiled; the message has the reason.
        OutOfMemoryFailure: The GPU's memory does not suffice.
    """
    import torch

    try:
        with torch.no_grad(), detailed_engines(trt, folder):
            return trt.compile(network, ir="dynamo", inputs=list(inputs), **options)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryFailure(
            f"Torch-TensorRT: {first_line(error)}", hint="use a smaller batch size or model"
        ) from error
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        whole = options.get("require_full_compilation", False)
        raise UnsupportedError(
            f"Torch-TensorRT cannot compile this network: {first_line(error)}",
            hint="backend.others=torch leaves to PyTorch what TensorRT does not take"
            if whole
            else "use backend=torch_cuda or backend=tensorrt",
        ) from error


@contextlib.contextmanager
def detailed_engines(trt: Any, folder: Path) -> Iterator[None]:
    """Engines made meanwhile tell the types of their layers, by which a precision is proved.

    ``Debugger`` is the compiler's only way to ask for that. It sets the process's logging anew,
    which is put back.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with trt.dynamo.Debugger(
            log_level="error", engine_builder_monitor=False, logging_dir=str(folder)
        ):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
