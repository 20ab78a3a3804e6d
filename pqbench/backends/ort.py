"""ONNX Runtime, guarded against running elsewhere than asked.

Left alone, ONNX Runtime answers a provider that cannot be loaded with a log line and runs on the
CPU. Here fallback is off, the providers of the finished session are compared with the one asked,
and the assignment of every node is read back.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.artifact import Artifact, Representation
from pqbench.backends import ort_graph
from pqbench.backends.base import Availability, Placement
from pqbench.backends.support import first_line, library, one_of, thread_count, versions
from pqbench.errors import PlacementError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDERS = {"cpu": "CPUExecutionProvider"}
OPTIMIZATION = ("all", "extended", "basic", "disabled")
PIP_NAME = "onnxruntime"
ERRORS_ONLY = 3


class OrtBackend:
    """ONNX Runtime on one execution provider.

    Args:
        threads: Threads that share one operator (``intra_op_num_threads``); operators run one
            after the other. None takes all usable cores.
        provider: ``cpu``.
        graph_optimization: ``all``, ``extended``, ``basic`` or ``disabled``.
        arena: Keep freed CPU memory for the next run: faster, at the price of resident memory.
    """

    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    loads: ClassVar[Representation] = "onnx"

    def __init__(
        self,
        threads: int | None = None,
        provider: str = "cpu",
        graph_optimization: str = "all",
        arena: bool = True,
    ) -> None:
        self.threads = thread_count(threads)
        self.provider = PROVIDERS[one_of("provider", provider, tuple(PROVIDERS))]
        self.device = provider
        self.graph_optimization = one_of("graph_optimization", graph_optimization, OPTIMIZATION)
        self.arena = arena

    def availability(self) -> Availability:
        """Whether ONNX Runtime is installed and was built with the provider."""
        found = versions("onnxruntime", "onnxruntime-gpu")
        try:
            self._library()
        except UnavailableError as error:
            return Availability(False, self.device, found, error.message, error.hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> OrtSession:  # noqa: ARG002
        """Make a session; one serves all batch sizes.

        Raises:
            UnavailableError: ONNX Runtime or the provider is missing.
            UnsupportedError: ONNX Runtime refuses the model.
            PlacementError: Nodes are assigned to another provider.
        """
        self._library()
        started = time.perf_counter()
        session = self.open(artifact.path)
        return OrtSession(self, artifact, session, time.perf_counter() - started)

    def open(
        self, path: Path, optimized: Path | None = None, profile: Path | None = None
    ) -> ort.InferenceSession:
        """A session of ONNX Runtime itself, proved to run on the provider asked.

        Args:
            path: The ONNX file.
            optimized: Write the optimized graph here.
            profile: Write a profile to a file whose name starts with this path.
        """
        import onnxruntime as ort

        options = self._options()
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            session = ort.InferenceSession(
                str(path), sess_options=options, providers=[self.provider], enable_fallback=0
            )
        except runtime_errors() as error:
            if "assigned to the default CPU EP" in str(error):
                raise PlacementError(
                    f"{self.provider} cannot run all nodes of {path.name}: {first_line(error)}",
                    hint="a part would have run on the CPU instead",
                ) from error
            raise UnsupportedError(
                f"ONNX Runtime refuses {path.name}: {first_line(error)}",
                hint="choose another quantization step or backend for this model",
            ) from error
        check_placement(session, self.provider)
        return session

    def _options(self) -> ort.SessionOptions:
        import onnxruntime as ort

        level = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = ERRORS_ONLY
        options.enable_cpu_mem_arena = self.arena
        options.graph_optimization_level = {
            "all": level.ORT_ENABLE_ALL,
            "extended": level.ORT_ENABLE_EXTENDED,
            "basic": level.ORT_ENABLE_BASIC,
            "disabled": level.ORT_DISABLE_ALL,
        }[self.graph_optimization]
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # Idle threads must not spin: in a paired measurement the other side runs meanwhile.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.provider != PROVIDERS["cpu"]:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _library(self) -> Any:
        ort = library("onnxruntime", PIP_NAME)
        if self.provider not in ort.get_available_providers():
            raise UnavailableError(
                f"this build of onnxruntime {ort.__version__} has no {self.provider}",
                hint=f"pip install {PIP_NAME}",
            )
        return ort


class OrtSession:
    """A model in ONNX Runtime.

    Attributes:
        cold: ``load_s``: seconds for reading, optimizing and making the session.
    """

    def __init__(
        self, backend: OrtBackend, artifact: Artifact, session: ort.InferenceSession, load_s: float
    ) -> None:
        self.cold = {"load_s": load_s}
        self._backend = backend
        self._artifact = artifact
        self._session: ort.InferenceSession | None = session
        self._inputs = [spec.name for spec in artifact.inputs]
        self._outputs = list(artifact.outputs)
        self._errors = runtime_errors()

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; see ``pqbench.backends.base.Session``.

        Raises:
            UnsupportedError: A kernel refuses its inputs.
        """
        assert self._session is not None
        feeds = {name: batch[name] for name in self._inputs}
        try:
            outputs: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, feeds)
        except self._errors as error:
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
        nodes = check_placement(self._session, self._backend.provider)
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            self._backend.open(self._artifact.path, optimized=optimized)
            facts = ort_graph.read_graph(optimized)
        return Placement(
            nodes=nodes,
            precision=facts.precision,
            quantizable=facts.quantizable,
            integer=facts.integer,
            float_reasons=facts.float_reasons,
            kernels=facts.kernels,
            threads=self._session.get_session_options().intra_op_num_threads,
        )

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> dict[str, float]:
        """Milliseconds per inference by operator type, in a session of its own."""
        skip = 2
        feeds = {name: batch[name] for name in self._inputs}
        with tempfile.TemporaryDirectory() as folder:
            session = self._backend.open(self._artifact.path, profile=Path(folder) / "profile")
            for _ in range(skip + runs):
                session.run(self._outputs, feeds)
            return ort_graph.profile_ms(Path(session.end_profiling()), skip, runs)

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._session = None


def check_placement(session: ort.InferenceSession, provider: str) -> dict[str, int]:
    """Nodes per execution provider, as recorded by ONNX Runtime when it made the session.

    Raises:
        PlacementError: The session lacks the provider, or other providers hold nodes.
    """
    providers = session.get_providers()
    if provider not in providers:
        raise PlacementError(
            f"asked for {provider}, ONNX Runtime silently took {', '.join(providers)}",
            hint="its libraries or driver are missing; see the log of the session",
        )
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    elsewhere = {name: count for name, count in nodes.items() if name != provider}
    if elsewhere or not nodes[provider]:
        raise PlacementError(
            f"asked for {provider}, but nodes are assigned so: {dict(nodes)}",
            hint="a part of the model would run elsewhere than asked",
        )
    return dict(nodes)


def runtime_errors() -> tuple[type[Exception], ...]:
    """The exceptions of ONNX Runtime's C++ side, which share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented",
        "RuntimeException", "NoModel", "ModelLoaded",
    )  # fmt: skip
    found = (getattr(state, name) for name in names if hasattr(state, name))
    return (*found, RuntimeError)
