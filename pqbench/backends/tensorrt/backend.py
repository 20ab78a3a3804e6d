"""TensorRT itself: an engine of its own, on TensorRT 10, 11 or TensorRT-RTX.

Loads ONNX, which TensorRT 10 quantizes itself where calibration samples come with it; builds the
engine for the protocol's batch sizes, and feeds it from one CUDA stream.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pqbench.backends.onnx_files import engine_folder
from pqbench.backends.support import one_of, thread_count, versions
from pqbench.backends.tensorrt.api import MODULES, load_library
from pqbench.backends.tensorrt.buffers import KINDS, make_buffers
from pqbench.backends.tensorrt.build import BuildOptions, find_or_build
from pqbench.backends.tensorrt.calibration import check_calibrates
from pqbench.backends.tensorrt.session import TensorrtSession
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend
from pqbench.core.errors import ConfigError, UnavailableError
from pqbench.machine.cuda_driver import gpu, parse_device

DISTRIBUTIONS = (
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13-libs",
    "tensorrt-rtx-cu13-bindings", "tensorrt-rtx",
)  # fmt: skip
BUFFER_PACKAGES = {"torch": "torch", "pycuda": "pycuda", "cuda_python": "cuda-bindings"}


class TensorrtBackend(Backend):
    """TensorRT on one GPU.

    Args:
        threads: Threads of the host side; None takes all usable cores.
        device: ``cuda`` or ``cuda:<index>``.
        library: ``tensorrt``, ``tensorrt_rtx``, or ``auto``: the first that is installed.
        precision: ``fp32`` or ``fp16`` for what is not quantized. TensorRT 10 does float16 by a
            builder flag, 11 and RTX by a cast ONNX file. INT8 comes with the model, as signed
            symmetric Q/DQ pairs (``compress=ort_int8_trt``), or TensorRT 10 calibrates it while it
            builds (``compress=trt_entropy_int8``).
        tf32: Float32 products may run in TF32; TensorRT's own default is true.
        shapes: ``static``: one optimization profile for each batch size; ``dynamic``: one for all.
        buffers: Who owns device memory and stream: ``torch``, ``pycuda`` or ``cuda_python``.
        cuda_graph: Record each batch size's enqueue once and replay it.
        workspace_mb: Memory for tactics while building, in MiB.
        optimization_level: The builder's, 0 (quick build) to 5.
        capabilities: Compute capabilities to build for (``SM89``), TensorRT-RTX only; empty: all.
        engine_cache: Folder for engines; None takes one beside the stages.
    """

    def __init__(
        self,
        threads: int | None = None,
        device: str = "cuda:0",
        library: str = "auto",
        precision: str = "fp32",
        tf32: bool = False,
        shapes: str = "static",
        buffers: str = "torch",
        cuda_graph: bool = False,
        workspace_mb: int = 1024,
        optimization_level: int = 3,
        capabilities: Sequence[str] = (),
        engine_cache: str | None = None,
    ) -> None:
        self.threads = thread_count(threads)
        self.index = parse_device(device)
        self.device = f"cuda:{self.index}"
        self.library = one_of("library", library, ("auto", *MODULES))
        self.shapes = one_of("shapes", shapes, ("static", "dynamic"))
        self.buffers = one_of("buffers", buffers, KINDS)
        self.cuda_graph = cuda_graph
        if cuda_graph and buffers == "pycuda":
            raise ConfigError(
                "backend.cuda_graph=true with backend.buffers=pycuda is not possible: PyCUDA has "
                "no CUDA graphs",
                hint="use backend.buffers=torch or cuda_python",
            )
        if not 0 <= optimization_level <= 5:
            raise ConfigError(
                f"backend.optimization_level={optimization_level} is not possible",
                hint="it lies in 0..5",
            )
        if workspace_mb < 1:
            raise ConfigError(
                f"backend.workspace_mb={workspace_mb} is not possible", hint="at least 1"
            )
        self.options = BuildOptions(
            precision=one_of("precision", precision, ("fp32", "fp16")),
            tf32=tf32,
            workspace_mb=workspace_mb,
            optimization_level=optimization_level,
            capabilities=tuple(capabilities),
        )
        self.engine_cache = engine_cache

    @property
    def loads(self) -> tuple[Representation, ...]:
        """``onnx``, and unless TensorRT-RTX is chosen ``onnx_calibrated``."""
        return ("onnx",) if self.library == "tensorrt_rtx" else ("onnx", "onnx_calibrated")

    def availability(self) -> Availability:
        """Whether a TensorRT can be imported, and the driver has the GPU."""
        found = versions(*DISTRIBUTIONS, BUFFER_PACKAGES[self.buffers])
        problems: list[UnavailableError] = []
        for ask in (lambda: load_library(self.library), lambda: gpu(self.index)):
            try:
                ask()
            except UnavailableError as error:
                problems.append(error)
        if not problems:
            return Availability(True, self.device, found)
        reason = "; ".join(p.message for p in problems)
        return Availability(False, self.device, found, reason, "; ".join(p.hint for p in problems))

    def check_loads(self, representation: Representation) -> None:
        """Refuse before any work what the TensorRT that is installed cannot load.

        Raises:
            UnavailableError: There is no TensorRT.
            UnsupportedError: It has no calibration of its own.
        """
        if representation == "onnx_calibrated":
            check_calibrates(load_library(self.library))

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> TensorrtSession:
        """Find or build the engine and make it ready to run.

        Raises:
            UnavailableError: TensorRT, the driver or the buffers' library is missing.
            UnsupportedError: TensorRT refuses the model, with its own reason.
        """
        library = load_library(self.library)
        card = gpu(self.index)
        sizes = sorted(set(batch_sizes))
        # First of all: it makes the primary context that everything else uses.
        buffers = make_buffers(self.buffers, self.index)
        started = time.perf_counter()
        engine = find_or_build(
            library,
            artifact,
            sizes,
            self.shapes == "static",
            self.options,
            engine_folder(artifact, self.engine_cache) / library.name,
            f"{card.name} {card.capability} driver {card.driver}",
            lambda: make_buffers(self.buffers, self.index),
        )
        build_s = None if engine.cached else time.perf_counter() - started
        details: dict[str, Any] = {
            "library": f"{library.name} {library.version}",
            "gpu": card.name,
            "compute_capability": card.capability,
            "precision": self.options.precision,
            "buffers": self.buffers,
            "cuda_graph": self.cuda_graph,
            "engine_bytes": len(engine.plan),
            "onnx_bytes": artifact.path.stat().st_size,
            "engine_cached": engine.cached,
            "engine_build_s": round(engine.build_s, 3),
            "builder_warnings": engine.warnings,
        }
        if engine.calibration is not None:
            details["calibration"] = engine.calibration
        return TensorrtSession(
            library,
            engine.plan,
            artifact,
            buffers,
            # Profile by batch size; a dynamic engine has one for all.
            {size: i for i, size in enumerate(sizes)} if self.shapes == "static" else {},
            sizes[-1],
            self.cuda_graph,
            "tf32"
            if self.options.tf32 and self.options.precision == "fp32"
            else {"fp32": "f32", "fp16": "f16"}[self.options.precision],
            engine.quantized,
            details,
            build_s,
        )
