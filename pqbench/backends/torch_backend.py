"""PyTorch itself, on the CPU: what a model costs without any deployment runtime."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.artifact import Artifact, Representation
from pqbench.backends.base import Availability, Placement
from pqbench.backends.support import library, one_of, thread_count, versions
from pqbench.errors import PlacementError, UnavailableError
from pqbench.tensors import as_tensors, flatten_outputs

if TYPE_CHECKING:
    import torch
    from torch import nn

PIP_NAME = "torch"
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
PRODUCTS = frozenset(
    {
        "convolution", "_convolution", "mkldnn_convolution", "conv1d", "conv2d", "conv3d",
        "mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    }
)  # fmt: skip


class TorchBackend:
    """PyTorch on the CPU. Sets the thread number and denormal flushing of its whole process.

    Args:
        threads: Threads that share one operator; None takes all usable cores.
        precision: ``fp32``; ``bf16``: convolutions and matrix products in bfloat16 by autocast.
        channels_last: Keep images in NHWC order; the conversion of inputs is part of a run.
        mode: ``eager``.
    """

    modules: ClassVar[tuple[str, ...]] = ("torch",)
    loads: ClassVar[Representation] = "torch"

    def __init__(
        self,
        threads: int | None = None,
        precision: str = "fp32",
        channels_last: bool = False,
        mode: str = "eager",
    ) -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, tuple(PRECISIONS))
        self.channels_last = channels_last
        self.mode = one_of("mode", mode, ("eager",))

    def availability(self) -> Availability:
        """Whether PyTorch is installed."""
        found = versions("torch")
        try:
            library("torch", PIP_NAME)
        except UnavailableError as error:
            return Availability(False, "cpu", found, error.message, error.hint)
        return Availability(True, "cpu", found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> TorchSession:  # noqa: ARG002
        """Rebuild the network; one serves all batch sizes.

        Raises:
            UnavailableError: PyTorch is missing.
            WeightsError: The artifact's weights do not fit its network.
            PlacementError: PyTorch did not take the number of threads.
        """
        torch = library("torch", PIP_NAME)
        from pqbench.checkpoint import load_network

        # Before the first parallel work: threads inherit the flag from the one that starts them.
        torch.set_flush_denormal(True)
        torch.set_num_threads(self.threads)
        if torch.get_num_threads() != self.threads:
            raise PlacementError(
                f"asked PyTorch for {self.threads} threads, it took {torch.get_num_threads()}"
            )
        started = time.perf_counter()
        network = load_network(artifact).requires_grad_(False)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return TorchSession(self, artifact, network, time.perf_counter() - started)


class TorchSession:
    """A network in PyTorch.

    Attributes:
        cold: ``load_s``: seconds for building the network and reading its weights.
    """

    def __init__(
        self, backend: TorchBackend, artifact: Artifact, network: nn.Module, load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._artifact = artifact
        self._network: nn.Module | None = network

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; see ``pqbench.backends.base.Session``."""
        import torch

        with torch.inference_mode():
            return [t.float().contiguous().numpy() for t in self._forward(batch)]

    def _forward(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[torch.Tensor]:
        import torch

        assert self._network is not None
        tensors = as_tensors(batch, self._artifact)
        if self._backend.channels_last:
            tensors = tuple(
                t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                for t in tensors
            )
        if self._backend.precision == "fp32":
            return flatten_outputs(self._network(*tensors))
        with torch.autocast("cpu", torch.bfloat16):
            return flatten_outputs(self._network(*tensors))

    def placement(self) -> Placement:
        """Operators, devices and types, watched while one sample of zeros runs.

        Raises:
            PlacementError: Convolutions or matrix products run at another precision than asked,
                or something runs elsewhere than on the CPU.
        """
        import torch

        zeros = {
            spec.name: np.zeros([d or 1 for d in spec.shape], spec.dtype)
            for spec in self._artifact.inputs
        }
        # not inference_mode: there, composite operators would hide what they are made of
        with torch.no_grad():
            seen = watch_operators(lambda: self._forward(zeros))
        products = [op for op in seen if op.name in PRODUCTS]
        asked = PRECISIONS[self._backend.precision]
        odd = Counter(f"{op.name} in {op.dtype}" for op in products if op.dtype != asked)
        if odd:
            raise PlacementError(f"asked PyTorch for {asked}, but it runs {dict(odd)}")
        devices = Counter(op.device for op in seen)
        if set(devices) - {"cpu"}:
            raise PlacementError(f"asked PyTorch for cpu, but it runs {dict(devices)}")
        return Placement(
            nodes=dict(devices),
            precision=asked,
            quantizable=len(products),
            integer=0,
            float_reasons=dict(Counter(f"{o.name} in {o.dtype}" for o in products).most_common()),
            kernels=dict(Counter(op.name for op in seen).most_common()),
            threads=torch.get_num_threads(),
        )

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> dict[str, float]:
        """Milliseconds per inference by operator, from ``torch.profiler``."""
        from torch.profiler import ProfilerActivity, profile

        for _ in range(2):
            self.run(batch)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                self.run(batch)
        ms = {e.key: e.self_cpu_time_total / 1000.0 / runs for e in profiler.key_averages()}
        return dict(sorted(ms.items(), key=lambda item: -item[1]))

    def close(self) -> None:
        """Free the network; the session cannot be used afterwards."""
        self._network = None


@dataclass(frozen=True)
class SeenOperator:
    """One operator that PyTorch executed.

    Attributes:
        name: ``convolution``, ``addmm``, ...
        dtype: ``f32``, ``bf16`` or PyTorch's name of the first result's element type.
        device: Device type of the first result.
    """

    name: str
    dtype: str
    device: str


def watch_operators(call: Any) -> list[SeenOperator]:
    """Every operator that PyTorch dispatches while ``call`` runs, views included."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    short = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
    seen: list[SeenOperator] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            first = next((t for t in flatten_outputs(result) if isinstance(t, torch.Tensor)), None)
            if first is not None:
                name = func.overloadpacket.__name__
                dtype = short.get(first.dtype, str(first.dtype))
                seen.append(SeenOperator(name, dtype, first.device.type))
            return result

    with Watch():  # type: ignore[no-untyped-call]
        call()
    return seen
