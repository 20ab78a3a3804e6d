"""A model in ONNX Runtime, on whatever provider."""

from __future__ import annotations

import functools
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pqbench.backends.ort import graph as ort_graph
from pqbench.backends.ort.kernels import file_operators, kernel_times, profiling_cost
from pqbench.backends.support import first_line
from pqbench.backends.work import integer_share
from pqbench.core.artifact import Artifact
from pqbench.core.backend import KernelProfile, Placement, Session
from pqbench.core.errors import OutOfMemoryFailure, UnsupportedError

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

Batch = Mapping[str, npt.NDArray[Any]]
_WARM_UP = 3  # profiled runs that do not count
OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|BFCArena", re.IGNORECASE)


class OrtSession(Session):
    """A model in ONNX Runtime.

    Args:
        artifact: The model.
        session: ONNX Runtime's own session.
        check: Reads the nodes per provider back, or raises ``PlacementError``.
        again: Opens another session with the same options (``optimized``, ``profile``), of the same
            file or another (``path``).
        errors: The exceptions of ONNX Runtime's C++ side.
        device: ``cpu`` or ``cuda:<index>``; on a GPU inputs and outputs are bound to its memory.
        keeps_graph: Whether the optimized graph can be written; if not, operators are counted in
            the nodes that were assigned, and integer kernels are not told.
        details: For the placement.
        load_s: Seconds for reading, optimizing and making the session.

    Attributes:
        cold: ``load_s``.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: ort.InferenceSession,
        check: Callable[[ort.InferenceSession], Mapping[str, int]],
        again: Callable[..., ort.InferenceSession],
        errors: tuple[type[Exception], ...],
        device: str = "cpu",
        keeps_graph: bool = True,
        details: Mapping[str, Any] | None = None,
        load_s: float = 0.0,
    ) -> None:
        self.cold = {"load_s": load_s}
        self.compile_reason = "ONNX Runtime does not tell building apart from loading"
        self._artifact = artifact
        self._session: ort.InferenceSession | None = session
        self._inputs = [spec.name for spec in artifact.inputs]
        self._outputs = list(artifact.outputs)
        self._check = check
        self._again = again
        self._errors = errors
        self._bound = None if device == "cpu" else BoundMemory(session, self._outputs, device)
        self._keeps_graph = keeps_graph
        self._details = dict(details or {})

    def run(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """One inference; see ``pqbench.core.backend.Session``.

        Raises:
            UnsupportedError: A kernel refuses its inputs.
            OutOfMemoryFailure: Memory does not suffice.
        """
        assert self._session is not None
        feeds = {name: batch[name] for name in self._inputs}
        try:
            if self._bound is not None:
                return self._bound.run(feeds)
            outputs: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, feeds)
        except self._errors as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise OutOfMemoryFailure(
                    f"ONNX Runtime: {first_line(error)}", hint="use a smaller batch size or model"
                ) from error
            raise UnsupportedError(
                f"ONNX Runtime cannot run {self._artifact.path.name}: {first_line(error)}"
            ) from error
        return outputs

    def placement(self) -> Placement:
        """Providers from the session, kernels from the graph that a second session writes.

        The second session has the same options and is gone when this returns; call this outside
        of memory measurements.

        Raises:
            PlacementError: Nodes run on another provider than asked.
        """
        assert self._session is not None
        nodes = self._check(self._session)
        threads = self._session.get_session_options().intra_op_num_threads
        if not self._keeps_graph:
            return self._assigned(nodes, threads)
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            session = self._again(optimized=optimized, profile=Path(folder) / "profile")
            model = ort_graph.load(optimized)
            facts = ort_graph.graph_facts(model)
            share = self._int8_macs_share(session, model)
        return Placement(
            nodes=nodes,
            precision=facts.precision,
            quantizable=facts.quantizable,
            integer=facts.integer,
            float_reasons=facts.float_reasons,
            kernels=facts.kernels,
            threads=threads,
            details=self._details,
            int8_macs_share=share,
        )

    def _int8_macs_share(
        self, session: ort.InferenceSession, model: onnx.ModelProto
    ) -> float | None:
        """From the shapes of one run on zeros; None where the model does not run on them."""
        zeros = {
            spec.name: np.zeros([size or 1 for size in spec.shape], spec.dtype)
            for spec in self._artifact.inputs
        }
        try:
            session.run(self._outputs, zeros)
        except self._errors:
            return None
        finally:
            profile = Path(session.end_profiling())
        return integer_share(ort_graph.products(model, profile))

    def _assigned(self, nodes: Mapping[str, int], threads: int) -> Placement:
        """Where a provider compiles whole subgraphs, only the nodes given to it are known."""
        assert self._session is not None
        types = Counter(
            node.op_type
            for group in self._session.get_provider_graph_assignment_info()
            for node in group.get_nodes()
        )
        return Placement(
            nodes=nodes,
            precision=str(self._details.get("precision", "unknown")),
            quantizable=sum(n for kind, n in types.items() if kind in ort_graph.FLOAT_KERNELS),
            integer=None,
            kernels=dict(types.most_common()),
            threads=threads,
            details=self._details,
        )

    def profile(self, batch: Batch, runs: int) -> dict[str, float]:
        """Milliseconds per inference by operator type, in a session of its own."""
        skip = 2
        feeds = {name: batch[name] for name in self._inputs}
        with tempfile.TemporaryDirectory() as folder:
            session = self._again(profile=Path(folder) / "profile")
            for _ in range(skip + runs):
                session.run(self._outputs, feeds)
            return ort_graph.profile_ms(Path(session.end_profiling()), skip, runs)

    def kernels(self, batch: Batch, runs: int) -> KernelProfile | None:
        """Kernel by kernel, in a session of its own; None where the graph cannot be written."""
        if not self._keeps_graph:
            return None
        feeds = {name: batch[name] for name in self._inputs}
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            cost = profiling_cost(self._again, Path(folder))
            session = self._again(optimized=optimized, profile=Path(folder) / "profile")
            for _ in range(_WARM_UP + runs):
                session.run(self._outputs, feeds)
            profile = Path(session.end_profiling())
            kernels, call_ms = kernel_times(ort_graph.load(optimized), profile, _WARM_UP, cost)
        operators = file_operators(ort_graph.load(self._artifact.path))
        return KernelProfile(kernels, call_ms, operators)

    def device_call(self, batch: Batch) -> Callable[[], object] | None:
        """One run on inputs bound to the GPU's memory; None on the CPU."""
        if self._bound is None:
            return None
        return self._bound.call({name: batch[name] for name in self._inputs})

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._bound = None
        self._session = None


class BoundMemory:
    """Inputs and outputs that stay in a device's memory, one set for each shape of the inputs.

    Args:
        session: The session that runs.
        outputs: Names of the outputs wanted.
        device: ``cuda:<index>``, or ``cpu``.
    """

    def __init__(self, session: ort.InferenceSession, outputs: list[str], device: str) -> None:
        kind, _, index = device.partition(":")
        self._session = session
        self._outputs = outputs
        self._where = (kind, int(index or 0))
        self._sets: dict[tuple[Any, ...], tuple[Any, dict[str, Any]]] = {}

    def run(self, feeds: Batch) -> list[npt.NDArray[np.float32]]:
        """Copy the inputs in, run, copy the outputs out; synchronous."""
        binding = self._filled(feeds)
        self._session.run_with_iobinding(binding)
        outputs: list[npt.NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        return outputs

    def call(self, feeds: Batch) -> Callable[[], object]:
        """A run of what is copied in now; outputs stay where they are. Synchronous, too."""
        return functools.partial(self._session.run_with_iobinding, self._filled(feeds))

    def _filled(self, feeds: Batch) -> Any:
        key = tuple((name, array.shape) for name, array in feeds.items())
        if key not in self._sets:
            self._sets[key] = self._make(feeds)
        binding, values = self._sets[key]
        for name, array in feeds.items():
            values[name].update_inplace(array)
        return binding

    def _make(self, feeds: Batch) -> tuple[Any, dict[str, Any]]:
        import onnxruntime as ort

        binding, values = self._session.io_binding(), {}
        for name, array in feeds.items():
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype.type, *self._where
            )
            binding.bind_ortvalue_input(name, value)
            values[name] = value
        for name in self._outputs:
            binding.bind_output(name, *self._where)
        return binding, values
