"""Run a TensorRT engine."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from pqbench.backends.fixed_sizes import run_other_size
from pqbench.backends.tensorrt.api import Library, check, make_logger, reason
from pqbench.backends.tensorrt.buffers import Buffers
from pqbench.backends.tensorrt.layers import FLOATS, is_product, read_layers
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Placement, Session
from pqbench.core.errors import PqbenchError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import tensorrt

Batch = Mapping[str, npt.NDArray[Any]]
NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_, "UINT8": np.uint8,
}  # fmt: skip


@dataclass
class BoundBatch:
    """Device memory of one batch size, and the graph that replays its enqueue."""

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, tuple[int, npt.NDArray[Any]]] = field(default_factory=dict)
    replay: Callable[[], None] | None = None


class TensorrtSession(Session):
    """An engine in an execution context.

    Args:
        library: Which TensorRT.
        plan: The serialized engine.
        artifact: The model it was built from.
        buffers: Device memory and stream.
        profiles: Optimization profile by batch size; empty: one profile for all.
        largest: Largest batch size that the engine takes.
        cuda_graph: Record and replay each batch size's enqueue.
        precision: Of what is not quantized: ``f32``, ``tf32``, ``f16``.
        quantized: Whether the model has Q/DQ pairs.
        details: For the placement.
        build_s: Seconds for building; None if the engine was found.

    Attributes:
        compile_s: ``build_s``.
        compile_reason: Why it is None.

    Raises:
        UnavailableError: The engine cannot run on this GPU; the message has the library's reason.
    """

    def __init__(
        self,
        library: Library,
        plan: bytes,
        artifact: Artifact,
        buffers: Buffers,
        profiles: Mapping[int, int],
        largest: int,
        cuda_graph: bool = False,
        precision: str = "f32",
        quantized: bool = False,
        details: Mapping[str, Any] | None = None,
        build_s: float | None = None,
    ) -> None:
        trt = library.trt
        self.compile_s = build_s
        self.compile_reason = "the engine was built by an earlier run (placement.details)"
        self._library = library
        self._artifact = artifact
        self._buffers = buffers
        self._profiles = dict(profiles)
        self._largest = largest
        self._precision = precision
        self._quantized = quantized
        self._details = dict(details or {})
        self._log = make_logger(trt)
        self._runtime: tensorrt.Runtime = trt.Runtime(self._log)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UnavailableError(
                f"{library.name} {library.version} cannot load its engine here: "
                f"{reason(self._log)}",
                hint="TensorRT-RTX runs on RTX GPUs only"
                if library.portable
                else "delete the engine folder, or update the driver",
            )
        self._engine: tensorrt.ICudaEngine = engine
        self._graphs = cuda_graph and not library.own_cuda_graphs
        self._context = self._make_context(cuda_graph)
        self._inputs = [spec.name for spec in artifact.inputs]
        self._types: dict[str, type[np.generic]] = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
            if kind not in NUMPY:
                raise UnsupportedError(f"the engine's '{name}' is of type {kind}")
            self._types[name] = NUMPY[kind]
        self._bound: dict[int, BoundBatch] = {}
        self._profile = 0

    def _make_context(self, cuda_graph: bool) -> tensorrt.IExecutionContext:
        """An execution context; TensorRT-RTX captures CUDA graphs itself if it is told to."""
        if cuda_graph and self._library.own_cuda_graphs:
            config: Any = self._engine.create_runtime_config()
            strategy = self._library.trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
            made = self._engine.create_execution_context(config)
        else:
            made = self._engine.create_execution_context()
        context: tensorrt.IExecutionContext = check(
            made, "no execution context", self._log, UnavailableError
        )
        return context

    def run(self, batch: Batch) -> list[npt.NDArray[np.float32]]:
        """One inference: copies in, enqueue, copies out, synchronize. See ``base.Session``.

        A batch of a size that the engine has no profile for (the last of a split) is filled up
        with repeated samples to the next larger size, or cut into pieces of the largest.

        Raises:
            UnsupportedError: The engine refuses a shape or the enqueue.
            OutOfMemoryFailure: The GPU's memory does not suffice.
        """
        count = len(batch[self._inputs[0]])
        if count > self._largest or (self._profiles and count not in self._profiles):
            return run_other_size(self.run, batch, self._profiles or (self._largest,))
        self._choose_profile(count)
        shapes = {name: batch[name].shape for name in self._inputs}
        bound = self._bound.get(count)
        if bound is None:
            bound = self._bound[count] = self._bind(shapes)
        for name, address in bound.inputs.items():
            array = np.ascontiguousarray(batch[name], self._types[name])
            self._buffers.upload(address, array)
        if bound.replay is not None:
            bound.replay()
        else:
            self._enqueue(bound, shapes)
        for address, array in bound.outputs.values():
            self._buffers.download(array, address)
        self._buffers.synchronize()
        return [
            np.array(bound.outputs[name][1], np.float32, copy=True)
            for name in self._artifact.outputs
        ]

    def device_call(self, batch: Batch) -> Callable[[], object] | None:
        """The enqueue alone, on inputs that are uploaded now; None for a size without a profile."""
        count = len(batch[self._inputs[0]])
        if count > self._largest or (self._profiles and count not in self._profiles):
            return None
        self.run(batch)  # chooses the profile, binds the memory, uploads
        bound = self._bound[count]
        shapes = {name: batch[name].shape for name in self._inputs}

        def call() -> None:
            self._choose_profile(count)
            bound.replay() if bound.replay is not None else self._enqueue(bound, shapes)
            self._buffers.synchronize()

        return call

    def _choose_profile(self, count: int) -> None:
        profile = self._profiles.get(count, 0)
        if profile == self._profile:
            return
        check(
            self._context.set_optimization_profile_async(profile, self._buffers.stream),
            f"profile {profile} refused",
            self._log,
        )
        self._buffers.synchronize()
        self._profile = profile

    def _bind(self, shapes: Mapping[str, tuple[int, ...]]) -> BoundBatch:
        """Memory for one batch size; with CUDA graphs, a first run and its recording."""
        bound = BoundBatch()
        for name in self._inputs:
            nbytes = int(np.prod(shapes[name])) * np.dtype(self._types[name]).itemsize
            bound.inputs[name] = self._buffers.allocate(nbytes)
        self._set_shapes(shapes)
        for name in self._artifact.outputs:
            dims: Any = self._context.get_tensor_shape(name)
            shape = tuple(int(n) for n in dims)
            if any(n < 0 for n in shape):
                raise UnsupportedError(f"the engine does not know the shape of '{name}': {shape}")
            array = np.empty(shape, self._types[name])
            bound.outputs[name] = (self._buffers.allocate(array.nbytes), array)
        if self._graphs:
            self._enqueue(bound, shapes)  # what is set up lazily must not be recorded
            self._buffers.synchronize()
            bound.replay = self._buffers.capture(lambda: self._enqueue(bound, shapes))
            if bound.replay is None:
                raise UnsupportedError("these buffers cannot record CUDA graphs")
        return bound

    def _set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in self._inputs:
            check(
                self._context.set_input_shape(name, cast("Any", tuple(shapes[name]))),
                f"shape {tuple(shapes[name])} of '{name}' refused",
                self._log,
            )
        unknown = self._context.infer_shapes()
        if unknown:
            raise UnsupportedError(f"the engine lacks the shapes of {', '.join(unknown)}")

    def _enqueue(self, bound: BoundBatch, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Shapes before every enqueue: a context remembers those of the last batch size."""
        self._set_shapes(shapes)
        for name, address in bound.inputs.items():
            self._context.set_tensor_address(name, address)
        for name, (address, _) in bound.outputs.items():
            self._context.set_tensor_address(name, address)
        check(
            self._context.execute_async_v3(self._buffers.stream),
            "the engine refuses to run",
            self._log,
            PqbenchError,
        )

    def placement(self) -> Placement:
        """Layers and their precision from the engine inspector; everything runs on the GPU.

        Where the library does not tell the layers, the share of integer kernels is null.
        """
        inspector: Any = self._engine.create_engine_inspector()
        form = self._library.trt.LayerInformationFormat.JSON
        layers = read_layers(inspector.get_engine_information(form))
        products = [kinds for kind, kinds in layers if is_product(kind)]
        integer = sum("int8" in kinds for kinds in products)
        known = bool(products)
        floats = {FLOATS[word] for kinds in products for word in kinds if word in FLOATS}
        return Placement(
            nodes={str(self._details.get("gpu", "cuda")): self._engine.num_layers},
            precision="+".join(sorted(floats)) if floats - {"f32"} else self._precision,
            quantizable=len(products),
            integer=integer if known or not self._quantized else None,
            kernels=dict(Counter(kind for kind, _ in layers).most_common()),
            details=self._details,
        )

    def profile(self, batch: Batch, runs: int) -> dict[str, float]:
        """Milliseconds per inference by layer, from TensorRT's own profiler."""
        trt = self._library.trt
        total: defaultdict[str, float] = defaultdict(float)

        class Profiler(trt.IProfiler):  # type: ignore[name-defined,misc]  # of the module at hand
            """Adds up what the library reports."""

            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                """Called by the library after each run."""
                total[layer_name] += ms

        for bound in self._bound.values():
            bound.replay = None  # a replayed graph reports nothing
        self.run(batch)
        self._context.profiler = Profiler()
        for _ in range(runs):
            self.run(batch)
        ordered = sorted(total.items(), key=lambda item: -item[1])
        return {name: ms / runs for name, ms in ordered}

    def close(self) -> None:
        """Free the engine and its memory; the session cannot be used afterwards."""
        self._bound.clear()
        self._buffers.close()
        del self._context, self._engine, self._runtime
