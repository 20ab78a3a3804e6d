"""PyTorch: eager, TorchScript, or compiled; on the CPU or a CUDA GPU.

The precision is set and watched: on new GPUs PyTorch would compute float32 convolutions in TF32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.backends.support import first_line, library, versions
from pqbench.backends.torch.compiled import check_compiler
from pqbench.backends.torch.options import TorchOptions
from pqbench.backends.torch.session import TorchSession
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability
from pqbench.core.errors import PlacementError, UnavailableError, UnsupportedError
from pqbench.machine.cuda_driver import gpu, parse_device
from pqbench.machine.heap import keep_freed_memory

if TYPE_CHECKING:
    from torch import nn

PIP_NAME = "torch"
DYNAMIC = "torch_dynamic"  # the step, by its name in lineages


class TorchBackend(TorchOptions):
    """PyTorch. Sets the thread number and denormal flushing of its whole process.

    Args:
        threads: Threads that share one operator on the CPU; None takes all usable cores.
        device: ``cpu``, ``cuda`` or ``cuda:<index>``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        amp: How a precision below fp32 is reached: True: convolutions and matrix products in it,
            by autocast, weights in float32; False: the whole network in it.
        tf32: Let float32 products on a GPU run in TF32 (10 bits of mantissa).
        channels_last: Keep images in NHWC order; the conversion of inputs is part of a run.
        mode: ``eager``, ``script`` (TorchScript, deprecated upstream) or ``compile``.
        compile_mode: ``torch.compile``'s mode: ``default``, ``reduce-overhead``, ``max-autotune``.
        fullgraph: Fail where a part of the network cannot be compiled.
        compile_cache: Take kernels compiled by an earlier process; the compile time is then null.
        freezing: Compile with the weights as constants, as PyTorch advises for inference; a
            quantized graph becomes integer kernels only so.
        keep_memory: Whether the C library keeps what PyTorch frees for its next call, see
            :mod:`pqbench.machine.heap`; False gives it back, as a program that was told nothing
            does; None keeps it on the CPU where the C library can. Of the whole process, too.
    """

    modules: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def loads(self) -> tuple[Representation, ...]:
        """PT2E's graph becomes integer kernels by ``torch.compile`` for the CPU alone."""
        integer = self.mode == "compile" and self.freezing and self.device == "cpu"
        return ("torch", "torch_int8") if integer and self.precision == "fp32" else ("torch",)

    def imports(self, artifact: Artifact) -> list[str]:
        """Modules that define the network: they count neither as load time nor as the model."""
        from pqbench.nets.checkpoint import modules_of

        return ["safetensors.torch", "hydra.utils", *modules_of(artifact)]

    def availability(self) -> Availability:
        """Whether PyTorch is installed, sees the device, and can compile if it has to."""
        found = versions("torch", *(("triton",) if self.mode == "compile" else ()))
        try:
            self._library()
        except UnavailableError as error:
            return Availability(False, self.device, found, error.message, error.hint)
        return Availability(True, self.device, found)

    def _library(self) -> Any:
        torch = library("torch", PIP_NAME)
        if self.device != "cpu":
            index = parse_device(self.device)
            if torch.version.cuda is None:
                raise UnavailableError(
                    f"PyTorch {torch.__version__} was built without CUDA",
                    hint="install a CUDA build of PyTorch",
                )
            seen = gpu(index)
            try:
                torch.cuda.init()
            except RuntimeError as error:
                raise UnavailableError(
                    f"PyTorch (CUDA {torch.version.cuda}) cannot use {seen.name} (driver for CUDA "
                    f"{seen.driver}): {first_line(error)}",
                    hint="update the driver, or install PyTorch for the driver's CUDA version",
                ) from error
        if self.mode == "compile":
            check_compiler(self.device)
        return torch

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> TorchSession:
        """Rebuild the network; TorchScript and ``torch.compile`` prepare it for each batch size.

        Raises:
            UnavailableError: PyTorch, the GPU or a compiler is missing.
            UnsupportedError: The network cannot be traced or compiled, or not run on the device.
            WeightsError: The artifact's weights do not fit its network.
            PlacementError: PyTorch did not take the number of threads.
        """
        network, load_s = self.build(artifact)
        return TorchSession(self, artifact, network, sorted(set(batch_sizes)), load_s)

    def build(self, artifact: Artifact) -> tuple[nn.Module, float]:
        """Set PyTorch as asked, and make the network on its device and in its precision.

        Returns:
            The network, and the seconds for building it and reading its weights.

        Raises:
            UnavailableError: PyTorch, the GPU or a compiler is missing.
            UnsupportedError: Its layers have no kernels on the device.
            WeightsError: The artifact's weights do not fit its network.
            PlacementError: PyTorch did not take the number of threads, or the C library not the
                order to keep memory.
        """
        self._check_kernels(artifact)
        torch = self._library()
        if self.keep_memory and not keep_freed_memory():
            raise PlacementError(
                "asked the C library to keep the memory that PyTorch frees, it refused",
                hint="set backend.keep_memory=false to measure without",
            )
        from pqbench.nets.checkpoint import load_network

        # Before the first parallel work: threads inherit the flag from the one that starts them.
        torch.set_flush_denormal(True)
        torch.set_num_threads(self.threads)
        if torch.get_num_threads() != self.threads:
            raise PlacementError(
                f"asked PyTorch for {self.threads} threads, it took {torch.get_num_threads()}"
            )
        if self.device != "cpu":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.backends.cudnn.benchmark = True  # each batch size is warmed up before it counts
        started = time.perf_counter()
        network: nn.Module = load_network(artifact).requires_grad_(False)
        if not self.amp and self.precision != "fp32":
            network = network.to(self.dtype())
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        network = network.to(self.device)
        return network, time.perf_counter() - started

    def _check_kernels(self, artifact: Artifact) -> None:
        """PyTorch multiplies dynamically quantized layers on the CPU alone, in float32 around."""
        dynamic = any(entry.action == DYNAMIC for entry in artifact.lineage)
        if dynamic and (self.device != "cpu" or (self.precision != "fp32" and not self.amp)):
            raise UnsupportedError(
                f"PyTorch's kernels of {DYNAMIC} take float32 on the CPU alone, not "
                f"{self.precision} on {self.device}",
                hint=f"use compress={DYNAMIC} with backend=torch",
            )
