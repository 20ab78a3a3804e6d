"""MNN on the CPU, in float32; device and threads are read back from the session."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.backends.mnn.graph import read_operators
from pqbench.backends.support import library, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, Placement, Session
from pqbench.core.errors import ConfigError, PlacementError
from pqbench.nets.mnn_net import CPU_KINDS, EXACT, FASTEST, MnnNet

PIP_NAME = "MNN"


class MnnBackend(Backend):
    """MNN.

    Args:
        threads: Threads that share one operator; None takes all usable cores.
        winograd: 0: products as written, to 3: Winograd's convolutions with the largest tiles,
            which is MNN's own default, faster and less exact.
    """

    modules: ClassVar[tuple[str, ...]] = ("MNN",)
    loads: ClassVar[tuple[Representation, ...]] = ("mnn",)

    def __init__(self, threads: int | None = None, winograd: int = FASTEST) -> None:
        self.threads = thread_count(threads)
        if winograd not in range(EXACT, FASTEST + 1):
            raise ConfigError(
                f"backend.winograd={winograd} is not possible", hint="choose 0, 1, 2 or 3"
            )
        self.winograd = winograd

    def availability(self) -> Availability:
        """Whether MNN is installed: found, not imported, for it prints a line then."""
        found = versions("mnn")
        if importlib.util.find_spec("MNN") is None:
            hint = f"pip install {PIP_NAME}"
            return Availability(False, self.device, found, "MNN is not installed", hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> MnnSession:
        """Read the model and make a session for each batch size.

        Raises:
            UnavailableError: MNN is missing.
            UnsupportedError: MNN refuses the model.
            PlacementError: A session took another device or number of threads than asked.
        """
        library("MNN", PIP_NAME)
        started = time.perf_counter()
        nets = {size: self.open(artifact, size) for size in sorted(set(batch_sizes))}
        session = MnnSession(self, artifact, nets, time.perf_counter() - started)
        session.check()
        return session

    def open(self, artifact: Artifact, batch_size: int) -> MnnNet:
        """The model for one batch size; other free sizes are taken as 1."""
        shapes = {
            spec.name: (batch_size, *(size or 1 for size in spec.shape[1:]))
            for spec in artifact.inputs
        }
        return MnnNet(artifact.path, shapes, artifact.outputs, self.threads, self.winograd)


class MnnSession(Session):
    """A model in MNN.

    Attributes:
        cold: ``load_s``: seconds for reading and for making the sessions.
    """

    def __init__(
        self, backend: MnnBackend, artifact: Artifact, nets: Mapping[int, MnnNet], load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._artifact = artifact
        self._inputs = [spec.name for spec in artifact.inputs]
        self._nets = dict(nets)

    def _net(self, batch: Mapping[str, npt.NDArray[Any]]) -> MnnNet:
        """The session for the batch's size; one that was not announced is made now."""
        count = len(batch[self._inputs[0]])
        if count not in self._nets:
            self._nets[count] = self._backend.open(self._artifact, count)
        return self._nets[count]

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; see ``pqbench.core.backend.Session``."""
        return self._net(batch).run(batch)

    def check(self) -> None:
        """Compare device and threads of each session with what was asked.

        Raises:
            PlacementError: They differ.
        """
        for size, net in self._nets.items():
            if net.device() not in CPU_KINDS.values():
                raise PlacementError(f"asked MNN for the CPU, it took {net.device()}")
            if net.threads() not in (None, self._backend.threads):
                raise PlacementError(
                    f"asked MNN for {self._backend.threads} threads, it took {net.threads()} at "
                    f"batch size {size}"
                )

    def placement(self) -> Placement:
        """Device, threads and operators, each counted as MNN runs it once.

        Raises:
            PlacementError: A session runs elsewhere, or on other threads, than asked.
        """
        self.check()
        net = self._nets[min(self._nets)]
        net.feed({name: np.zeros(shape, np.float32) for name, shape in net.shapes.items()})
        kinds: list[str] = []
        net.watch(lambda info: kinds.append(str(info.getType())), lambda _: None)
        details = {"device": net.device(), "winograd": self._backend.winograd}
        return read_operators(kinds, net.threads(), details)

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> dict[str, float]:
        """Milliseconds per inference by operator type, from MNN's callbacks around each."""
        net = self._net(batch)
        total: Counter[str] = Counter()
        begun = [0]

        def before(_info: Any) -> None:
            begun[0] = time.perf_counter_ns()

        def after(info: Any) -> None:
            total[str(info.getType()).strip()] += time.perf_counter_ns() - begun[0]

        net.run(batch)
        for _ in range(runs):
            net.feed(batch)
            net.watch(before, after)
        return {kind: ns / 1e6 / runs for kind, ns in total.most_common()}

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._nets.clear()
