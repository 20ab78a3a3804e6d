"""LiteRT on the CPU: what XNNPACK takes runs there, the rest by LiteRT's own kernels."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.assets.converters import LITERT
from pqbench.backends.litert.graph import read_nodes
from pqbench.backends.one_by_one import WAYS, refuse_batches, run_each
from pqbench.backends.support import library, one_of, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import PlacementError
from pqbench.nets.litert_net import LitertNet

PIP_NAME = "'pqbench[litert]'"


class LitertBackend(Backend):
    """LiteRT with XNNPACK, in float32, or in int8 where the model is quantized.

    Args:
        threads: Threads of XNNPACK; None takes all usable cores.
        batch: ``one_by_one``: a call on n samples is n inferences, one after the other; ``refuse``:
            batch sizes above 1 are refused.
    """

    modules: ClassVar[tuple[str, ...]] = ("ai_edge_litert.interpreter",)
    loads: ClassVar[tuple[Representation, ...]] = ("litert",)

    def __init__(self, threads: int | None = None, batch: str = "one_by_one") -> None:
        self.threads = thread_count(threads)
        self.batch = one_of("batch", batch, WAYS)

    def availability(self) -> Availability:
        """Whether LiteRT and its converter are installed."""
        found = versions("ai-edge-litert")
        here = importlib.util.find_spec("ai_edge_litert") is not None
        missing = [] if here else [f"pip install {PIP_NAME}"]
        missing += [] if LITERT.ready() else [LITERT.command]
        if not missing:
            return Availability(True, self.device, found)
        what = "LiteRT's converter" if here else "LiteRT"
        hint = " && ".join(missing)
        return Availability(False, self.device, found, f"{what} is not installed", hint)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> LitertSession:
        """Read the model, and let XNNPACK take its part.

        Raises:
            UnavailableError: LiteRT is missing.
            UnsupportedError: LiteRT cannot load it, or a batch size is refused.
            PlacementError: XNNPACK took nothing, or other threads than asked.
        """
        library("ai_edge_litert", PIP_NAME)
        refuse_batches(self.batch, batch_sizes, "LiteRT's model")
        started = time.perf_counter()
        shapes = [(1, *(size or 1 for size in spec.shape[1:])) for spec in artifact.inputs]
        net = LitertNet(artifact.path, shapes, self.threads)
        session = LitertSession(self, artifact, net, time.perf_counter() - started)
        session.placement()
        return session


class LitertSession(Session):
    """A model in LiteRT.

    Attributes:
        cold: ``load_s``: seconds for reading the model and packing its weights.
    """

    def __init__(
        self, backend: LitertBackend, artifact: Artifact, net: LitertNet, load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._inputs = [spec.name for spec in artifact.inputs]
        self._net = net

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference a sample, one after the other; see ``pqbench.core.backend.Session``."""
        arrays = [batch[name] for name in self._inputs]
        return run_each(self._net.run, arrays)

    def placement(self) -> Placement:
        """Operators that XNNPACK runs and those that LiteRT's own kernels do.

        Raises:
            PlacementError: XNNPACK runs none, or other threads were started than asked.
        """
        placement = read_nodes(self._net.nodes(), self._threads(), {"batch": self._backend.batch})
        if not placement.nodes.get("xnnpack"):
            raise PlacementError(
                "XNNPACK took no operator of this model, LiteRT's own kernels are slow",
                hint="use backend=ort or backend=openvino for this model",
            )
        return placement

    def _threads(self) -> int | None:
        """Threads of XNNPACK: the caller's, and those that loading started.

        Raises:
            PlacementError: Fewer or more than asked.
        """
        if self._net.started is None:
            return None
        threads = self._net.started + 1
        if threads != self._backend.threads:
            raise PlacementError(
                f"asked LiteRT for {self._backend.threads} threads, it took {threads}",
                hint="set threads to what it takes",
            )
        return threads

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._net.close()
