"""TensorRT 10, TensorRT 11 and TensorRT-RTX behind one door.

The three share most of their Python interface. Where they differ, this module is asked for a
*feature*, found by looking at the module, never by comparing version numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pqbench.backends.support import first_line
from pqbench.core.errors import PqbenchError, UnavailableError, UnsupportedError

MODULES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
HINTS = {
    "tensorrt": "pip install 'tensorrt>=10.9,<12' on a machine with an NVIDIA GPU",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
}
BAD = ("ERROR", "INTERNAL_ERROR")
KEPT_WARNINGS = 20


@dataclass(frozen=True)
class Library:
    """One of the three libraries.

    Attributes:
        trt: The module.
        name: ``tensorrt`` or ``tensorrt_rtx``.
        version: Its version.
    """

    trt: Any
    name: str
    version: str

    @property
    def weak_typing(self) -> bool:
        """Whether precisions are builder flags (10); else the ONNX file's own types (11, RTX)."""
        return hasattr(self.trt.BuilderFlag, "FP16")

    @property
    def calibrates(self) -> bool:
        """Whether it finds the ranges of INT8 itself, from calibration samples (10)."""
        return hasattr(self.trt, "IInt8EntropyCalibrator2")

    @property
    def portable(self) -> bool:
        """Whether engines are built for compute capabilities, without a GPU at hand (RTX)."""
        return hasattr(self.trt, "ComputeCapability")

    @property
    def own_cuda_graphs(self) -> bool:
        """Whether the library captures CUDA graphs itself (RTX)."""
        return hasattr(self.trt, "CudaGraphStrategy")


def load_library(choice: str = "auto") -> Library:
    """Import a TensorRT.

    Args:
        choice: ``tensorrt``, ``tensorrt_rtx``, or ``auto``: the first that is usable.

    Raises:
        UnavailableError: None is; the message says of each why.
    """
    names = tuple(MODULES) if choice == "auto" else (choice,)
    problems = []
    for name in names:
        for module in MODULES[name]:
            try:
                trt = import_module(module)
            except (ImportError, OSError, TypeError) as error:
                problems.append(f"{module}: {first_line(error)}")
                continue
            # Type stubs leave a folder of that name: an import then gives an empty module.
            if hasattr(trt, "Builder") and hasattr(trt, "Runtime"):
                return Library(trt, name, str(trt.__version__))
            problems.append(f"{module}: it imports but is empty (type stubs, or the lean runtime)")
    hints = [HINTS[name] for name in names]
    raise UnavailableError("no usable TensorRT: " + "; ".join(problems), hint=", or ".join(hints))


def make_logger(trt: Any) -> Any:
    """A logger that keeps what the library says: TensorRT's failures are return values only."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the module at hand
        """Keeps errors and warnings; has ``lines``, a list of (severity, message)."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by the library."""
            name = str(severity).rpartition(".")[2]
            if name in (*BAD, "WARNING"):
                self.lines.append((name, message))

    return Logger()


def reason(log: Any) -> str:
    """The errors that a logger kept, in one line."""
    texts = [one_line(message) for severity, message in log.lines if severity in BAD]
    return " | ".join(dict.fromkeys(texts))[:600] or "the library gave no reason"


def one_line(text: str) -> str:
    """A message without its line breaks."""
    return " ".join(text.split())


def check(value: Any, what: str, log: Any, kind: type[PqbenchError] = UnsupportedError) -> Any:
    """Return ``value`` unless it is None or False, TensorRT's ways to fail.

    Raises:
        PqbenchError: Of the class ``kind``, with the logger's reason.
    """
    if value is None or value is False:
        raise kind(f"TensorRT: {what}: {reason(log)}")
    return value


def judge_warnings(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Warnings worth keeping, without repetition.

    Raises:
        UnsupportedError: A warning says that the engine computes something else than the model.
    """
    texts = [one_line(message) for level, message in lines if level == "WARNING"]
    warnings = list(dict.fromkeys(texts))
    for text in warnings:
        if "defaulting to int8" in text.lower():
            # Measured on ResNet-18: 36 dB of signal to noise fall to 11 dB.
            raise UnsupportedError(
                f"TensorRT reads unsigned activations as signed ones at the same scale: {text}",
                hint="quantize signed and symmetric: compress=ort_int8_trt",
            )
    return warnings[:KEPT_WARNINGS]
