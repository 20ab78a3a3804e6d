"""ExecuTorch on the CPU: operators that XNNPACK has run there, the rest by reference kernels."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.backends.one_by_one import WAYS, refuse_batches, run_each
from pqbench.backends.support import library, one_of, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import PlacementError
from pqbench.nets.executorch_net import PRODUCTS, load_operators, open_method, run_sample

PIP_NAME = "'pqbench[executorch]'"


class ExecutorchBackend(Backend):
    """ExecuTorch with XNNPACK: float32, and the INT8 of ``executorch_int8``.

    Args:
        threads: Threads of XNNPACK; None takes all usable cores.
        batch: ``one_by_one``: a call on n samples is n inferences, one after the other; ``refuse``:
            batch sizes above 1 are refused.
        portable: What becomes of convolutions and matrix products that XNNPACK did not take, whose
            reference kernels are slow: ``fail`` or ``allow``.
    """

    modules: ClassVar[tuple[str, ...]] = ("executorch.runtime",)
    loads: ClassVar[tuple[Representation, ...]] = ("executorch",)

    def __init__(
        self, threads: int | None = None, batch: str = "one_by_one", portable: str = "fail"
    ) -> None:
        self.threads = thread_count(threads)
        self.batch = one_of("batch", batch, WAYS)
        self.portable = one_of("portable", portable, ("fail", "allow"))

    def availability(self) -> Availability:
        """Whether ExecuTorch is installed: found, not imported, which takes two seconds."""
        found = versions("executorch", "torch")
        if importlib.util.find_spec("executorch") is None:
            hint = f"pip install {PIP_NAME}"
            return Availability(False, self.device, found, "executorch is not installed", hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> ExecutorchSession:
        """Read the program.

        Raises:
            UnavailableError: ExecuTorch is missing.
            UnsupportedError: ExecuTorch cannot load it, or a batch size is refused.
        """
        library("executorch.runtime", PIP_NAME)
        refuse_batches(self.batch, batch_sizes, "ExecuTorch's program")
        started = time.perf_counter()
        method = open_method(artifact.path, self.threads)
        return ExecutorchSession(self, artifact, method, time.perf_counter() - started)


class ExecutorchSession(Session):
    """A program in ExecuTorch.

    Attributes:
        cold: ``load_s``: seconds for reading the program and packing its weights.
    """

    def __init__(
        self, backend: ExecutorchBackend, artifact: Artifact, method: Any, load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._artifact = artifact
        self._inputs = [spec.name for spec in artifact.inputs]
        self._method = method

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference a sample, one after the other; see ``pqbench.core.backend.Session``."""
        arrays = [batch[name] for name in self._inputs]
        return run_each(lambda one: run_sample(self._method, one), arrays)

    def placement(self) -> Placement:
        """Operators that XNNPACK runs and those of the reference kernels, by the converter's count.

        Raises:
            PlacementError: A product runs by a reference kernel, or threads were not taken.
        """
        import torch

        threads = torch.get_num_threads()
        if threads != self._backend.threads:
            raise PlacementError(f"asked for {self._backend.threads} threads, it took {threads}")
        counts = load_operators(self._artifact.folder)
        delegated, portable = counts["delegated"], counts["portable"]
        slow = {name: count for name, count in portable.items() if name in PRODUCTS}
        if slow and self._backend.portable == "fail":
            raise PlacementError(
                f"XNNPACK did not take {slow}: their reference kernels are slow",
                hint="set backend.portable=allow to measure it all the same",
            )
        every = {**{f"xnnpack {k}": n for k, n in delegated.items()},
                 **{f"portable {k}": n for k, n in portable.items()}}  # fmt: skip
        products = {k: n for k, n in every.items() if k.partition(" ")[2] in PRODUCTS}
        nodes = {"xnnpack": sum(delegated.values()), "portable": sum(portable.values())}
        integer = counts.get("integer", {})
        left = {
            k: n - (integer.get(k.partition(" ")[2], 0) if k.startswith("xnnpack") else 0)
            for k, n in products.items()
        }
        return Placement(
            nodes={name: count for name, count in nodes.items() if count},
            precision="f32",
            quantizable=sum(products.values()),
            integer=sum(integer.values()),
            float_reasons={f"{name} in f32": count for name, count in left.items() if count},
            kernels=every,
            threads=threads,
            details={"batch": self._backend.batch},
        )

    def close(self) -> None:
        """Free the program; the session cannot be used afterwards."""
        self._method = None
