"""What a backend is: a runtime on a device that loads an artifact and runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy.typing as npt

from pqbench.core.artifact import Artifact, Representation


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here.

    Attributes:
        available: True if ``load`` can be expected to work.
        reason: Why not, exactly (library missing, no driver, wrong version); empty if available.
        device: The device it would run on, ``cpu`` or ``cuda:0``.
        versions: Version of each library involved that is installed.
        hint: What to install or do; empty if available.
    """

    available: bool
    device: str
    versions: Mapping[str, str]
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Placement:
    """Where and in what precision a loaded model really runs, read back from the runtime.

    Attributes:
        nodes: Number of graph nodes per device or execution provider.
        precision: The floating-point precision in force (``f32``, ``bf16``), read back.
        quantizable: Operators that could run as integer kernels (convolutions, matrix products).
        integer: How many of those do. None if the runtime cannot tell.
        int8_macs_share: Share, 0..1, of those operators' multiply-accumulates that integer kernels
            do. None if the runtime does not tell shapes.
        float_reasons: For quantizable operators left in float, and costly extras such as runtime
            (de)quantization: ``{description: count}``.
        kernels: Executed kernel or layer types and how many of each.
        threads: Threads the runtime was set to use, read back where the runtime tells.
        details: What else is worth knowing, JSON-ready: provider options, engine size, ...
    """

    nodes: Mapping[str, int]
    precision: str
    quantizable: int
    integer: int | None
    float_reasons: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[str, int] = field(default_factory=dict)
    threads: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    int8_macs_share: float | None = None

    @property
    def int8_share(self) -> float | None:
        """Share of quantizable operators that run as integer kernels, or None if unknown."""
        if self.integer is None or self.quantizable == 0:
            return None
        return self.integer / self.quantizable


@dataclass(frozen=True)
class Operator:
    """One operator of a model's file that depends on the input.

    Attributes:
        name: The node's name in the file, or its first output's where it has none.
        type: Its type as the file has it, ``Conv``.
        inputs: Names of the operators whose results it reads.
        outputs: Names of its results.
        weights: Name of its constant weights, where it has any.
    """

    name: str
    type: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weights: str = ""


@dataclass(frozen=True)
class KernelTime:
    """What one executed kernel took.

    Attributes:
        name: The runtime's own name of it, unique within the model.
        kind: Its type, with the precision where the runtime tells: ``Convolution u8``.
        ms: Milliseconds per inference.
        origins: Names of operators of the loaded model, or of their results, that the runtime says
            it computes; several where they were fused, none where it does not tell.
        feeds: Names of the kernels that read what it gives.
        conversion: Whether it only changes how a tensor is held: quantizing, dequantizing, another
            memory layout or type.
    """

    name: str
    kind: str
    ms: float
    origins: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    conversion: bool = False


@dataclass(frozen=True)
class KernelProfile:
    """One look at a model, kernel by kernel.

    Attributes:
        kernels: In order of execution.
        call_ms: Milliseconds per inference while profiled: the kernels and what is between them.
        operators: Of the loaded model, each after those that it reads.
    """

    kernels: tuple[KernelTime, ...]
    call_ms: float
    operators: tuple[Operator, ...] = ()

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> KernelProfile:
        """What ``dataclasses.asdict`` gave, after JSON."""

        def tuples(node: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in node.items()}

        return cls(
            tuple(KernelTime(**tuples(kernel)) for kernel in value["kernels"]),
            value["call_ms"],
            tuple(Operator(**tuples(operator)) for operator in value["operators"]),
        )


class Session(ABC):
    """An artifact loaded in a backend.

    Attributes:
        compile_s: How much of the load was compiling or building an engine, in s; None: unknown.
        compile_reason: Why ``compile_s`` is None.
    """

    compile_s: float | None = None
    compile_reason: str = "this backend does not compile apart from loading"

    @abstractmethod
    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """One inference, outputs in host memory when it returns; this call is what is timed.

        Args:
            batch: One C-contiguous array per model input, (n, ...).

        Returns:
            One array per model output, (n, ...), floating-point.
        """

    @abstractmethod
    def placement(self) -> Placement:
        """Where the nodes run and at what precision, proved by the runtime itself.

        Raises:
            PlacementError: Something runs elsewhere, or at another precision, than asked.
        """

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> Mapping[str, float]:  # noqa: ARG002
        """Milliseconds per inference by kernel or layer type, from the runtime's own profiler.

        Never called on a session that is being timed: profiling slows it down.

        Args:
            batch: One C-contiguous array per model input, (n, ...).
            runs: Inferences to average over.

        Returns:
            By kernel type; empty, as here, if the runtime has no profiler.
        """
        return {}

    def kernels(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> KernelProfile | None:  # noqa: ARG002
        """The same kernel by kernel, with the operators that each computes.

        Args:
            batch: One C-contiguous array per model input, (n, ...).
            runs: Inferences to average over.

        Returns:
            None, as here, if the runtime's profiler does not tell.
        """
        return None

    def device_call(self, batch: Mapping[str, npt.NDArray[Any]]) -> Callable[[], object] | None:  # noqa: ARG002
        """``run`` without the copies to and from a device, for the share that they have in a call.

        Args:
            batch: One C-contiguous array per model input, (n, ...).

        Returns:
            One inference on inputs that are in the device's memory already; outputs stay there,
            and the call returns when the device is done. None, as here, where inputs and outputs
            are in host memory anyway.
        """
        return None

    def close(self) -> None:  # noqa: B027  # nothing to free is a good answer
        """Free the model."""


class Backend(ABC):
    """A runtime on a device; named by ``_target_`` in ``conf/backend/*.yaml``.

    The constructor takes the settings and must be cheap: the runtime is imported in the methods.

    Attributes:
        name: The name in the configuration, for messages; a constructor that has the parameter
            ``name`` is given it.
        device: The device that is asked for, ``cpu``, ``cuda`` or ``cuda:<index>``: while a session
            is timed, pqbench runs nothing else on it.
        threads: Threads that a session computes on; 0 if unknown.
        modules: Modules to import before a model is loaded, so that the runtime itself counts
            neither as time nor as memory of the model.
        runs_to_load: Whether loading runs the model on all threads: two sides that did so at once
            would be in each other's way, so one is loaded after the other.
    """

    name: str = ""
    device: str = "cpu"
    threads: int = 0
    modules: ClassVar[Sequence[str]] = ()
    runs_to_load: bool = False

    @property
    @abstractmethod
    def loads(self) -> tuple[Representation, ...]:
        """The representations it loads: a class attribute, or a property that asks the settings."""

    @abstractmethod
    def availability(self) -> Availability:
        """Whether it can run here, found without loading a model."""

    def imports(self, artifact: Artifact) -> Sequence[str]:  # noqa: ARG002
        """Modules that this model needs beside the runtime's, imported before it is loaded.

        Args:
            artifact: The model that will be loaded.
        """
        return ()

    def check_loads(self, representation: Representation) -> None:  # noqa: B027  # optional
        """Refuse, before any work, what the library that is installed here cannot load.

        Args:
            representation: One of ``loads``.

        Raises:
            UnsupportedError: It cannot.
        """

    @abstractmethod
    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> Session:
        """Load a model so that it runs at each of ``batch_sizes``.

        Raises:
            UnavailableError: The runtime or device is missing.
            UnsupportedError: The runtime refuses this model; the message carries its reason.
            PlacementError: It would run elsewhere than asked.
        """
