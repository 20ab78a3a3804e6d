"""PyTorch: eager, TorchScript, or compiled; on the CPU or a CUDA GPU.

The precision is set and watched: on new GPUs PyTorch would compute float32 convolutions in TF32.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.artifact import Artifact, Representation
from pqbench.backends.base import Availability, Placement
from pqbench.backends.cuda import gpu, parse_device
from pqbench.backends.support import first_line, library, one_of, thread_count, versions
from pqbench.backends.torch_compiled import check_compiler, compile_network, script
from pqbench.backends.torch_watch import (
    INTEGER,
    PRODUCTS,
    SeenOperator,
    watch_compiled,
    watch_operators,
)
from pqbench.errors import ConfigError, OutOfMemoryFailure, PlacementError, UnavailableError
from pqbench.parity import FLOAT_SQNR_DB, check, compare
from pqbench.tensors import flatten_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

PIP_NAME = "torch"
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
MODES = ("eager", "script", "compile")
HALF_SQNR_DB = 25.0  # scripted or compiled against eager: fusion changes what is rounded
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")


class TorchBackend:
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
    """

    modules: ClassVar[tuple[str, ...]] = ("torch",)
    loads: ClassVar[Representation] = "torch"

    def __init__(
        self,
        threads: int | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        mode: str = "eager",
        device: str = "cpu",
        amp: bool = True,
        tf32: bool = False,
        compile_mode: str = "default",
        fullgraph: bool = True,
        compile_cache: bool = True,
    ) -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, tuple(PRECISIONS))
        self.channels_last = channels_last
        self.mode = one_of("mode", mode, MODES)
        self.device = device if device == "cpu" else f"cuda:{parse_device(device)}"
        self.amp = amp
        self.tf32 = tf32
        self.compile_mode = one_of("compile_mode", compile_mode, COMPILE_MODES)
        self.fullgraph = fullgraph
        self.compile_cache = compile_cache
        if mode == "script" and precision != "fp32" and amp:
            raise ConfigError(
                f"TorchScript with precision={precision} by autocast is not possible: a frozen "
                "network is not cast",
                hint="set backend.amp=false: the whole network in that precision",
            )

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
            UnsupportedError: The network cannot be traced or compiled.
            WeightsError: The artifact's weights do not fit its network.
            PlacementError: PyTorch did not take the number of threads.
        """
        torch = self._library()
        from pqbench.checkpoint import load_network

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
        network = load_network(artifact).requires_grad_(False)
        if not self.amp and self.precision != "fp32":
            network = network.to(self.dtype())
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        network = network.to(self.device)
        return TorchSession(
            self, artifact, network, sorted(set(batch_sizes)), time.perf_counter() - started
        )

    def dtype(self) -> torch.dtype:
        """The element type of products."""
        import torch

        kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        return kinds[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast in the precision asked, or nothing."""
        import torch

        if self.precision == "fp32" or not self.amp:
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], self.dtype())


class TorchSession:
    """A network in PyTorch.

    Attributes:
        cold: ``load_s``: seconds for building the network and reading its weights.
        compile_s: Seconds for tracing or compiling, at all batch sizes together; None for eager,
            or where kernels came from a cache.
        compile_reason: Why it is None.
    """

    def __init__(
        self,
        backend: TorchBackend,
        artifact: Artifact,
        network: nn.Module,
        batch_sizes: Sequence[int],
        load_s: float,
    ) -> None:
        import torch

        self.cold = {"load_s": load_s}
        self.compile_s: float | None = None
        self.compile_reason = "an eager network is not compiled"
        self._backend = backend
        self._artifact = artifact
        self._size = batch_sizes[0]
        self._names = [spec.name for spec in artifact.inputs]
        self._moved = (
            backend.device != "cpu"
            or backend.channels_last
            or (backend.precision != "fp32" and not backend.amp)
        )
        # looked up once: a network of 0.1 ms would feel each import and call in the timed path
        self._tensor = torch.Tensor
        self._float32 = torch.float32
        self._as_tensor = torch.from_numpy
        self._no_grad = torch.inference_mode
        self._out_of_memory = torch.OutOfMemoryError
        self._casts = backend.precision != "fp32" and backend.amp
        self._network: Callable[..., Any] | None = network
        self._details: dict[str, Any] = {"mode": backend.mode}
        if backend.precision != "fp32":  # fp32 knows no mixing
            self._details["amp"] = backend.amp
        if backend.mode != "eager":
            self._prepare(network, batch_sizes)

    def _prepare(self, network: nn.Module, batch_sizes: Sequence[int]) -> None:
        import torch

        backend = self._backend
        started = time.perf_counter()
        with torch.inference_mode(), backend.autocast():
            examples = [self._tensors(self._zeros(size)) for size in batch_sizes]
            if backend.mode == "script":
                self._network, hits = script(network, examples), 0
            else:
                self._network, hits = compile_network(
                    network,
                    examples,
                    backend.compile_mode,
                    backend.fullgraph,
                    backend.compile_cache,
                )
        self.compile_s = time.perf_counter() - started
        self._check_parity(network)
        if hits:
            self._details["graphs_from_cache"] = hits
            self.compile_reason = (
                f"{hits} compiled graph(s) came from PyTorch's cache "
                "(backend.compile_cache=false compiles anew)"
            )
            self.compile_s = None

    def _check_parity(self, network: nn.Module) -> None:
        """What was scripted or compiled against the eager network, on seeded noise.

        Raises:
            ParityError: It computes something else.
        """
        import torch

        rng = np.random.default_rng(0)
        batch = {
            name: rng.standard_normal(zeros.shape).astype(zeros.dtype)
            if np.issubdtype(zeros.dtype, np.floating)
            else zeros + 1  # a token, and a mask that lets it through
            for name, zeros in self._zeros(self._size).items()
        }
        prepared = self._network
        with torch.inference_mode():
            got = [self._as_array(t) for t in self._forward(batch)]
            self._network = network
            try:
                reference = [self._as_array(t) for t in self._forward(batch)]
            finally:
                self._network = prepared
        least = FLOAT_SQNR_DB if self._backend.precision == "fp32" else HALF_SQNR_DB
        parity = check(compare(f"eager to {self._backend.mode}", reference, got, least, 0.97))
        self._details["parity"] = asdict(parity)

    def _zeros(self, size: int) -> dict[str, npt.NDArray[Any]]:
        return {
            spec.name: np.zeros([size, *(d or 1 for d in spec.shape[1:])], spec.dtype)
            for spec in self._artifact.inputs
        }

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; on a GPU both copies are part of it. See ``base.Session``.

        Raises:
            OutOfMemoryFailure: The GPU's memory does not suffice.
        """
        try:
            with self._no_grad():
                return [self._as_array(t) for t in self._forward(batch)]
        except self._out_of_memory as error:
            raise OutOfMemoryFailure(
                f"PyTorch: {first_line(error)}", hint="use a smaller batch size or model"
            ) from error

    def _as_array(self, tensor: torch.Tensor) -> npt.NDArray[np.float32]:
        """Without a call more than a plain float32 tensor on the CPU needs."""
        if tensor.dtype is not self._float32 or tensor.is_cuda:
            tensor = tensor.float().cpu()
        return tensor.numpy() if tensor.is_contiguous() else tensor.contiguous().numpy()

    def _tensors(self, batch: Mapping[str, npt.NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        """Inputs on the device, in the type and memory order of the network."""
        arrays = [batch[name] for name in self._names]
        tensors = tuple(self._as_tensor(a if a.flags.writeable else a.copy()) for a in arrays)
        return self._move(tensors) if self._moved else tensors

    def _move(self, tensors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        import torch

        backend = self._backend
        if backend.device != "cpu":
            tensors = tuple(t.to(backend.device) for t in tensors)
        if not backend.amp and backend.precision != "fp32":
            tensors = tuple(t.to(backend.dtype()) if t.is_floating_point() else t for t in tensors)
        if backend.channels_last:
            tensors = tuple(
                t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                for t in tensors
            )
        return tensors

    def _forward(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[torch.Tensor]:
        assert self._network is not None
        tensors = self._tensors(batch)
        if not self._casts:
            value = self._network(*tensors)
        else:
            with self._backend.autocast():
                value = self._network(*tensors)
        return [value] if isinstance(value, self._tensor) else flatten_outputs(value)

    def placement(self) -> Placement:
        """Operators, devices and types, watched while zeros run at the smallest batch size.

        Raises:
            PlacementError: Convolutions or matrix products run at another precision than asked,
                or something runs on another device.
        """
        import torch

        backend = self._backend
        zeros = self._zeros(self._size)
        forward = functools.partial(self._forward, zeros)
        kind = backend.device.partition(":")[0]
        if backend.mode == "compile":
            with torch.inference_mode():
                seen = watch_compiled(forward, kind)
        else:
            # not inference_mode: there, composite operators would hide what they are made of
            with torch.no_grad():
                seen = watch_operators(forward)
        products = [op for op in seen if op.name in PRODUCTS]
        integer = sum(op.name in INTEGER for op in seen)
        asked = PRECISIONS[backend.precision]
        odd = Counter(f"{op.name} in {op.dtype}" for op in products if op.dtype != asked)
        if odd:
            raise PlacementError(f"asked PyTorch for {asked}, but it runs {dict(odd)}")
        devices = self._check_devices(seen, kind)
        tf32 = backend.tf32 and backend.precision == "fp32" and kind == "cuda"
        return Placement(
            nodes=devices,
            precision="tf32" if tf32 else asked,
            quantizable=len(products) + integer,
            integer=integer,
            float_reasons=dict(Counter(f"{o.name} in {o.dtype}" for o in products).most_common()),
            kernels=dict(Counter(op.name for op in seen).most_common()),
            threads=torch.get_num_threads(),
            details=self._details,
        )

    def _check_devices(self, seen: Sequence[SeenOperator], kind: str) -> dict[str, int]:
        devices = Counter(op.device for op in seen)
        if set(devices) != {kind}:
            raise PlacementError(f"asked PyTorch for {kind}, but it runs {dict(devices)}")
        return dict(devices)

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> dict[str, float]:
        """Milliseconds per inference by operator, from ``torch.profiler``.

        On a GPU: by kernel, and the copies to and from it (``Memcpy``) apart.
        """
        from torch.profiler import ProfilerActivity, profile

        for _ in range(2):
            self.run(batch)
        cuda = self._backend.device != "cpu"
        activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            for _ in range(runs):
                self.run(batch)
        ms: dict[str, float] = {}
        for event in profiler.key_averages():
            us = event.self_device_time_total if cuda else event.self_cpu_time_total
            if us:
                ms[event.key] = us / 1000.0 / runs
        return dict(sorted(ms.items(), key=lambda item: -item[1]))

    def close(self) -> None:
        """Free the network; the session cannot be used afterwards."""
        self._network = None
