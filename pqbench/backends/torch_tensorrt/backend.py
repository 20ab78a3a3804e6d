"""Torch-TensorRT: PyTorch's own way to TensorRT, with PyTorch for what TensorRT does not take.

A network is exported, cut where TensorRT has no converter, and each part that it takes becomes an
engine, for one batch size. Which ones those are is read back from the compiled module.
https://docs.pytorch.org/TensorRT/user_guide/dynamo_export.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pqbench.backends.onnx_files import engine_folder
from pqbench.backends.support import one_of, versions
from pqbench.backends.torch.backend import TorchBackend
from pqbench.backends.torch_tensorrt.api import (
    DISTRIBUTIONS,
    INT8_HINT,
    INT8_REASON,
    TENSORRT,
    check_installed,
    load_library,
)
from pqbench.backends.torch_tensorrt.session import TorchTensorrtSession
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability
from pqbench.core.errors import ConfigError, UnavailableError, UnsupportedError
from pqbench.machine.cuda_driver import gpu, parse_device


class TorchTensorrtBackend(TorchBackend):
    """A network in PyTorch, compiled by ``torch_tensorrt.compile(ir="dynamo")``.

    Args:
        threads: Threads of the host side; None takes all usable cores.
        device: ``cuda`` or ``cuda:<index>``.
        precision: ``fp32``, ``bf16`` or ``fp16``; ``int8`` is refused with its reason.
        amp: How a precision below fp32 is reached: True: by Torch-TensorRT's own autocast, weights
            in float32; False: the whole network in it.
        tf32: Float32 products may run in TF32; TensorRT's own default is true.
        others: Where operators run that TensorRT does not take: ``torch``, or ``none``: then
            loading fails.
        min_block_size: Least number of operators that are worth an engine.
        workspace_mb: Memory for tactics while building, in MiB.
        optimization_level: The builder's, 0 (quick build) to 5.
        engine_cache: Folder for the timing cache; None takes one beside the stages.
    """

    modules: ClassVar[tuple[str, ...]] = ("torch", "torch_tensorrt")

    def __init__(
        self,
        threads: int | None = None,
        device: str = "cuda:0",
        precision: str = "fp32",
        amp: bool = False,
        tf32: bool = False,
        others: str = "torch",
        min_block_size: int = 5,
        workspace_mb: int = 1024,
        optimization_level: int = 3,
        engine_cache: str | None = None,
    ) -> None:
        self.int8 = one_of("precision", precision, ("fp32", "bf16", "fp16", "int8")) == "int8"
        super().__init__(
            threads, "fp32" if self.int8 else precision, device=device, amp=amp, tf32=tf32
        )
        self.index = parse_device(device)
        self.mode = "tensorrt"
        self.others = one_of("others", others, ("torch", "none"))
        for key, value, low, high in (
            ("min_block_size", min_block_size, 1, 1 << 20),
            ("workspace_mb", workspace_mb, 1, 1 << 20),
            ("optimization_level", optimization_level, 0, 5),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"backend.{key}={value} is not possible", hint=f"it lies in {low}..{high}"
                )
        self.min_block_size = min_block_size
        self.workspace_mb = workspace_mb
        self.optimization_level = optimization_level
        self.engine_cache = engine_cache

    @property
    def loads(self) -> tuple[Representation, ...]:
        """A network in PyTorch; PT2E's quantizers have no converter."""
        return ("torch",)

    def availability(self) -> Availability:
        """Whether Torch-TensorRT is installed, fits PyTorch, and the driver has the GPU."""
        found = versions(*DISTRIBUTIONS, "torch", *TENSORRT)
        if self.int8:
            return Availability(False, self.device, found, INT8_REASON, INT8_HINT)
        problems: list[UnavailableError] = []
        for ask in (check_installed, lambda: gpu(self.index)):
            try:
                ask()
            except UnavailableError as error:
                problems.append(error)
        try:
            if not problems:
                self._library()
                load_library()
        except UnavailableError as error:
            problems.append(error)
        reason = "; ".join(p.message for p in problems)
        hint = "; ".join(p.hint for p in problems)
        return Availability(not problems, self.device, found, reason, hint)

    def options(self) -> dict[str, Any]:
        """Settings of ``torch_tensorrt.dynamo.compile``."""
        cast = self.amp and self.precision != "fp32"
        return {
            "device": self.device,
            "disable_tf32": not self.tf32,
            "require_full_compilation": self.others == "none",
            "min_block_size": self.min_block_size,
            "workspace_size": self.workspace_mb << 20,
            "optimization_level": self.optimization_level,
            **(
                {"enable_autocast": True, "autocast_low_precision_type": self.dtype()}
                if cast
                else {}
            ),
        }

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> TorchTensorrtSession:
        """Rebuild the network and compile it for each batch size.

        Raises:
            UnavailableError: Torch-TensorRT, PyTorch's CUDA or the GPU is missing.
            UnsupportedError: The network cannot be compiled; the message has the reason.
            PlacementError: TensorRT took nothing of it, or took it at another precision.
        """
        if self.int8:
            raise UnsupportedError(INT8_REASON, hint=INT8_HINT)
        check_installed()
        network, load_s = self.build(artifact)
        folder = engine_folder(artifact, self.engine_cache) / "torch_tensorrt"
        sizes = sorted(set(batch_sizes))
        return TorchTensorrtSession(self, self.options(), folder, artifact, network, sizes, load_s)
