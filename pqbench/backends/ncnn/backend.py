"""ncnn on the CPU, at a precision that is set and read back.

Left alone, ncnn stores weights and values between layers in float16 and would take a GPU by Vulkan
where there is one; both are named here. It takes one sample a call.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.backends.ncnn.graph import read_layers
from pqbench.backends.one_by_one import WAYS, refuse_batches
from pqbench.backends.support import library, one_of, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import PlacementError, UnavailableError
from pqbench.nets.ncnn_net import PRECISIONS, open_net, run_sample

if TYPE_CHECKING:
    import ncnn

PIP_NAME = "ncnn pnnx"


class NcnnBackend(Backend):
    """ncnn.

    Args:
        threads: OpenMP threads that share one layer; None takes all usable cores.
        precision: How weights and values between layers are stored: ``f32`` or ``bf16``.
        batch: ``one_by_one``: a call on n samples is n inferences, one after the other, as an
            application would have to do; ``refuse``: batch sizes above 1 are refused.
    """

    modules: ClassVar[tuple[str, ...]] = ("ncnn",)
    loads: ClassVar[tuple[Representation, ...]] = ("ncnn",)

    def __init__(
        self, threads: int | None = None, precision: str = "f32", batch: str = "one_by_one"
    ) -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, PRECISIONS)
        self.batch = one_of("batch", batch, WAYS)

    def availability(self) -> Availability:
        """Whether ncnn and its converter are installed."""
        found = versions("ncnn", "pnnx")
        try:
            library("ncnn", PIP_NAME)
            if importlib.util.find_spec("pnnx") is None:
                raise UnavailableError(
                    "pnnx, which converts models for ncnn, is not installed",
                    hint=f"pip install {PIP_NAME}",
                )
        except UnavailableError as error:
            return Availability(False, self.device, found, error.message, error.hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> NcnnSession:
        """Read the model.

        Raises:
            UnavailableError: ncnn is missing.
            UnsupportedError: ncnn cannot read the model, or a batch size is refused.
            PlacementError: ncnn took other settings than asked.
        """
        library("ncnn", PIP_NAME)
        refuse_batches(self.batch, batch_sizes, "ncnn")
        started = time.perf_counter()
        net = open_net(artifact.path, self.threads, self.precision)
        return NcnnSession(self, artifact, net, time.perf_counter() - started)


class NcnnSession(Session):
    """A model in ncnn.

    Attributes:
        cold: ``load_s``: seconds for reading the model and packing its weights.
    """

    def __init__(
        self, backend: NcnnBackend, artifact: Artifact, net: ncnn.Net, load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._artifact = artifact
        self._inputs = [spec.name for spec in artifact.inputs]
        self._net = net

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference a sample, one after the other; see ``pqbench.core.backend.Session``."""
        arrays = [batch[name] for name in self._inputs]
        count = len(self._artifact.outputs)
        rows = [
            run_sample(self._net, [array[i] for array in arrays], count)
            for i in range(len(arrays[0]))
        ]
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def placement(self) -> Placement:
        """Layers of the graph, and the options that the network took.

        Raises:
            PlacementError: The network holds other options than asked.
        """
        options, wanted = self._net.opt, self._backend
        taken = {
            "precision": "bf16"
            if options.use_bf16_storage
            else "f16"
            if options.use_fp16_storage
            else "f32",
            "threads": options.num_threads,
            "vulkan": options.use_vulkan_compute,
        }
        asked = {"precision": wanted.precision, "threads": wanted.threads, "vulkan": False}
        if taken != asked:
            raise PlacementError(f"asked ncnn for {asked}, it took {taken}")
        details: dict[str, Any] = {"batch": wanted.batch, "storage": wanted.precision}
        if wanted.precision != "f32":
            layers = self._net.layers()
            details["layers_stored_so"] = sum(bool(x.support_bf16_storage) for x in layers)
        threads = int(options.num_threads)
        return read_layers(self._artifact.path, wanted.precision, threads, details)

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._net.clear()
