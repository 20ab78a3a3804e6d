"""A network in PyTorch that is timed, scored and watched: the session of the torch backend."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.backends.support import first_line
from pqbench.backends.torch.compiled import compile_network, script
from pqbench.backends.torch.kernels import module_times
from pqbench.backends.torch.options import PRECISIONS
from pqbench.backends.torch.placement import (
    INTEGER,
    PRODUCTS,
    check_devices,
    watch_compiled,
    watch_operators,
)
from pqbench.core.artifact import Artifact
from pqbench.core.backend import KernelProfile, Placement, Session
from pqbench.core.errors import OutOfMemoryFailure, PlacementError
from pqbench.core.parity import FLOAT_SQNR_DB, QDQ_SQNR_DB, check, compare
from pqbench.nets.layers import flatten_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pqbench.backends.torch.options import TorchOptions

HALF_SQNR_DB = 25.0  # scripted or compiled against eager: fusion changes what is rounded


class TorchSession(Session):
    """A network in PyTorch.

    Attributes:
        cold: ``load_s``: seconds for building the network and reading its weights.
        compile_s: Seconds for tracing or compiling, at all batch sizes together; None for eager,
            or where kernels came from a cache.
        compile_reason: Why it is None.
    """

    def __init__(
        self,
        backend: TorchOptions,
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
        plain = not self._moved and not self._casts
        self._single = self._names[0] if plain and len(self._names) == 1 else None
        self._network: Callable[..., Any] | None = network
        self._details: dict[str, Any] = {"mode": backend.mode}
        if backend.device == "cpu":
            self._details["keep_memory"] = backend.keep_memory
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
                    backend.freezing,
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
        integer = self._artifact.representation == "torch_int8"
        # Beyond the calibrated ranges integer kernels saturate elsewhere than the eager graph.
        spread = 0.25 if integer else 1.0
        batch = {
            name: (spread * rng.standard_normal(zeros.shape)).astype(zeros.dtype)
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
        if integer:
            least = QDQ_SQNR_DB
        else:
            least = FLOAT_SQNR_DB if self._backend.precision == "fp32" else HALF_SQNR_DB
        mode = f"eager to {self._backend.mode}"
        parity = check(compare(mode, reference, got, least, 0.97, quantized=integer))
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
                if self._single is None:
                    return [self._as_array(t) for t in self._forward(batch)]
                # The same in fewer frames of Python: they are a tenth of a network of 0.1 ms.
                array = batch[self._single]
                value = self._network(  # type: ignore[misc]  # None only when closed
                    self._as_tensor(array if array.flags.writeable else array.copy())
                )
                if (
                    type(value) is self._tensor
                    and value.dtype is self._float32
                    and value.is_contiguous()
                ):
                    return [value.numpy()]
                return [self._as_array(t) for t in flatten_outputs(value)]
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
        value = self._computed(self._tensors(batch))
        return [value] if isinstance(value, self._tensor) else flatten_outputs(value)

    def _computed(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        assert self._network is not None
        if not self._casts:
            return self._network(*tensors)
        with self._backend.autocast():
            return self._network(*tensors)

    def device_call(self, batch: Mapping[str, npt.NDArray[Any]]) -> Callable[[], object] | None:
        """The network alone, on tensors that are on the GPU; None on the CPU."""
        if self._backend.device == "cpu":
            return None
        import torch

        tensors = self._tensors(batch)

        def call() -> None:
            with self._no_grad():
                self._computed(tensors)
            torch.cuda.synchronize(self._backend.device)

        return call

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
        devices, elsewhere = check_devices(seen, kind)
        tf32 = backend.tf32 and backend.precision == "fp32" and kind == "cuda"
        return Placement(
            nodes=devices,
            precision="tf32" if tf32 else asked,
            quantizable=len(products) + integer,
            integer=integer,
            float_reasons=dict(Counter(f"{o.name} in {o.dtype}" for o in products).most_common()),
            kernels=dict(Counter(op.name for op in seen).most_common()),
            threads=torch.get_num_threads(),
            details={**self._details, **({"elsewhere": elsewhere} if elsewhere else {})},
        )

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

    def kernels(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> KernelProfile | None:
        """Module by module; None on a GPU and where the network is no tree of modules any more."""
        from torch import fx, nn

        network, backend = self._network, self._backend
        if backend.mode != "eager" or backend.device != "cpu":
            return None
        if not isinstance(network, nn.Module) or isinstance(network, fx.GraphModule):
            return None
        return module_times(network, functools.partial(self.run, batch), runs)

    def close(self) -> None:
        """Free the network; the session cannot be used afterwards."""
        self._network = None
