"""ONNX Runtime, guarded against running elsewhere than asked.

Left alone, ONNX Runtime answers a provider that cannot be loaded with a log line and runs on the
CPU. Here fallback is off, the providers of the finished session are compared with the one asked,
and the assignment of every node is read back.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.backends.ort.session import OrtSession
from pqbench.backends.support import first_line, library, one_of, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend
from pqbench.core.errors import PlacementError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import onnxruntime as ort

PROVIDERS = {"cpu": "CPUExecutionProvider"}
OPTIMIZATION = ("all", "extended", "basic", "disabled")
PIP_NAME = "onnxruntime"
ERRORS_ONLY = 3


class OrtBackend(Backend):
    """ONNX Runtime on one execution provider.

    Args:
        threads: Threads that share one operator (``intra_op_num_threads``); operators run one
            after the other. None takes all usable cores.
        provider: ``cpu``.
        graph_optimization: ``all``, ``extended``, ``basic`` or ``disabled``.
        arena: Keep freed CPU memory for the next run: faster, at the price of resident memory.
    """

    modules: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    loads: ClassVar[tuple[Representation, ...]] = ("onnx",)
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu")
    keeps_graph: ClassVar[bool] = True
    """Whether the provider leaves nodes that can be read back after optimization."""

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
        self.others: tuple[str, ...] = ()  # providers that may take what this one refuses
        self.graph_optimization = one_of("graph_optimization", graph_optimization, OPTIMIZATION)
        self.arena = arena

    def availability(self) -> Availability:
        """Whether ONNX Runtime is installed, has the provider, and finds what that needs."""
        found = versions(*self.distributions)
        try:
            self._library()
        except UnavailableError as error:
            return Availability(False, self.device, found, error.message, error.hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> OrtSession:
        """Make a session; one serves all batch sizes.

        Raises:
            UnavailableError: ONNX Runtime, the provider, or what it needs is missing.
            UnsupportedError: ONNX Runtime refuses the model.
            PlacementError: Nodes are assigned to another provider.
        """
        self._library()
        path = self.model_file(artifact)
        options = self.provider_options(artifact, path, sorted(set(batch_sizes)))
        started = time.perf_counter()
        session = self.open(path, options)
        seconds = time.perf_counter() - started
        return OrtSession(
            artifact,
            session,
            check=functools.partial(check_placement, provider=self.provider, others=self.others),
            again=functools.partial(self.open, path=path, provider_options=options),
            errors=runtime_errors(),
            device=self.device,
            keeps_graph=self.keeps_graph,
            details=self.details(artifact, options),
            load_s=seconds,
        )

    def model_file(self, artifact: Artifact) -> Path:
        """The ONNX file that is loaded."""
        return artifact.path

    def provider_options(
        self,
        artifact: Artifact,  # noqa: ARG002
        path: Path,  # noqa: ARG002
        batch_sizes: Sequence[int],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Options of the execution provider."""
        return {}

    def details(self, artifact: Artifact, options: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What the record says of this backend alone."""
        return {"provider_options": dict(options)} if options else {}

    def open(
        self,
        path: Path,
        provider_options: Mapping[str, Any],
        optimized: Path | None = None,
        profile: Path | None = None,
    ) -> ort.InferenceSession:
        """A session of ONNX Runtime itself, proved to run on the provider asked.

        Args:
            path: The ONNX file.
            provider_options: Options of the execution provider.
            optimized: Write the optimized graph here.
            profile: Write a profile to a file whose name starts with this path.
        """
        options = self._options()
        errors: tuple[type[Exception], ...] = (*runtime_errors(), ValueError)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # its Python layer prints "EP Error"
                session = self._session(path, options, dict(provider_options))
        except errors as error:
            if "assigned to the default CPU EP" in str(error):
                raise PlacementError(
                    f"{self.provider} cannot run all nodes of {path.name}: {first_line(error)}",
                    hint="a part would have run on the CPU instead",
                ) from error
            raise UnsupportedError(
                f"ONNX Runtime refuses {path.name}: {first_line(error)}",
                hint="choose another quantization step or backend for this model",
            ) from error
        check_placement(session, self.provider, self.others)
        return session

    def _session(
        self, path: Path, options: ort.SessionOptions, provider_options: dict[str, Any]
    ) -> ort.InferenceSession:
        import onnxruntime as ort

        return ort.InferenceSession(
            str(path),
            sess_options=options,
            providers=[(self.provider, provider_options), *self.others],
            enable_fallback=0,
        )

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
        # Not with the CPU among the providers: ONNX Runtime calls that a conflict.
        if PROVIDERS["cpu"] not in (self.provider, *self.others):
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


def check_placement(
    session: ort.InferenceSession, provider: str, others: Sequence[str] = ()
) -> dict[str, int]:
    """Nodes per execution provider, as recorded by ONNX Runtime when it made the session.

    Args:
        session: The session; its options must ask for recording the assignment.
        provider: The provider asked for.
        others: Providers that were allowed to take nodes as well.

    Raises:
        PlacementError: The session lacks the provider, it holds no node, or a provider that was
            not allowed holds one.
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
    elsewhere = {name: count for name, count in nodes.items() if name not in (provider, *others)}
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
