"""OpenVINO, at a precision that is set and read back.

On a CPU with BF16 units OpenVINO computes float models in BF16 unless told otherwise, so the
precision is always named, and the compiled model is asked what it took. A model with a free batch
size can take more than twice as long as one compiled for the size it is fed, so each batch size is
compiled for itself unless ``shapes=dynamic``.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pqbench.backends.fixed_sizes import run_other_size
from pqbench.backends.openvino.graph import check_compiled, products, read_layers, runtime_layers
from pqbench.backends.openvino.kernels import compiled_kernels, file_operators, means_since
from pqbench.backends.support import last_line, library, one_of, thread_count, versions
from pqbench.core.artifact import Artifact, Representation
from pqbench.core.backend import Availability, Backend, KernelProfile, Placement, Session
from pqbench.core.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    import openvino as ov

PIP_NAME = "openvino"
FREE = -1
_WARM_CALLS = 10


class OpenvinoBackend(Backend):
    """OpenVINO on one device.

    Args:
        threads: CPU threads (``INFERENCE_NUM_THREADS``); None takes all usable cores.
        device: ``CPU``.
        precision: ``f32``, ``bf16`` or ``f16`` for what is not quantized. A CPU that lacks the
            units for it takes another; then loading fails.
        hint: ``latency``: all threads on one call; ``throughput``: calls side by side, which makes
            a single call slower. pqbench times single calls: with this hint, what they cost.
        shapes: ``static`` compiles the model once for each batch size; ``dynamic`` once for all.
        model_cache: Folder for compiled models, found again by later runs, whose compile time is
            then null; None compiles anew.
    """

    modules: ClassVar[tuple[str, ...]] = ("openvino",)
    loads: ClassVar[tuple[Representation, ...]] = ("openvino",)

    def __init__(
        self,
        threads: int | None = None,
        device: str = "CPU",
        precision: str = "f32",
        hint: str = "latency",
        shapes: str = "static",
        model_cache: str | None = None,
    ) -> None:
        self.threads = thread_count(threads)
        self.target = one_of("device", device, ("CPU",))
        self.device = self.target.lower()
        self.precision = one_of("precision", precision, ("f32", "bf16", "f16"))
        self.hint = one_of("hint", hint, ("latency", "throughput"))
        self.shapes = one_of("shapes", shapes, ("static", "dynamic"))
        self.model_cache = model_cache

    def availability(self) -> Availability:
        """Whether OpenVINO is installed and sees the device."""
        found = versions("openvino")
        try:
            self._core()
        except UnavailableError as error:
            return Availability(False, self.device, found, error.message, error.hint)
        return Availability(True, self.device, found)

    def load(self, artifact: Artifact, batch_sizes: Sequence[int]) -> OpenvinoSession:
        """Read the model and compile it for each batch size.

        Raises:
            UnavailableError: OpenVINO or the device is missing.
            UnsupportedError: OpenVINO refuses the model.
            PlacementError: The compiled model took another precision or device than asked.
        """
        core = self._core()
        sizes = sorted(set(batch_sizes)) if self.shapes == "static" else [FREE]
        load_s = compile_s = 0.0
        compiled: dict[int, ov.CompiledModel] = {}
        for size in sizes:
            started = time.perf_counter()
            model = self._read(core, artifact, size)
            read = time.perf_counter()
            compiled[size] = self.compile(core, model)
            load_s += read - started
            compile_s += time.perf_counter() - read
        return OpenvinoSession(self, artifact, compiled, load_s, compile_s)

    def compile(self, core: ov.Core, model: ov.Model, perf_count: bool = False) -> ov.CompiledModel:
        """Compile for the device; what was asked is read back before anything runs."""
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": self.hint.upper(),
            "PERF_COUNT": perf_count,
        }
        if self.model_cache is not None:
            options["CACHE_DIR"] = self.model_cache
        if "CPU_DENORMALS_OPTIMIZATION" in core.get_property(self.target, "SUPPORTED_PROPERTIES"):
            options["CPU_DENORMALS_OPTIMIZATION"] = True
        try:
            compiled = core.compile_model(model, self.target, options)
        except RuntimeError as error:
            raise UnsupportedError(
                f"OpenVINO cannot compile the model for {self.target}: {last_line(error)}",
                hint="choose another quantization step or backend for this model",
            ) from error
        check_compiled(compiled, self.target, self.precision)
        return compiled

    def profile_request(self, artifact: Artifact, batch_size: int) -> ov.InferRequest:
        """A request that counts time by layer, compiled apart from what is timed."""
        core = self._core()
        size = batch_size if self.shapes == "static" else FREE
        model = self._read(core, artifact, size)
        return self.compile(core, model, perf_count=True).create_infer_request()

    def read(self, artifact: Artifact) -> ov.Model:
        """The model as it is in its file."""
        return self._read(self._core(), artifact, FREE)

    def _read(self, core: ov.Core, artifact: Artifact, batch_size: int) -> ov.Model:
        try:
            model = core.read_model(artifact.path)
            if batch_size != FREE:
                model.reshape(
                    {s.name: [batch_size, *(FREE if d is None else d for d in s.shape[1:])]
                     for s in artifact.inputs}
                )  # fmt: skip
        except RuntimeError as error:
            raise UnsupportedError(
                f"OpenVINO refuses {artifact.path.name}"
                f"{f' at batch size {batch_size}' if batch_size != FREE else ''}: "
                f"{last_line(error)}",
            ) from error
        return model

    def _core(self) -> ov.Core:
        core = library("openvino", PIP_NAME).Core()
        if self.target not in core.available_devices:
            raise UnavailableError(
                f"OpenVINO sees no {self.target} here, only {', '.join(core.available_devices)}"
            )
        return core


@dataclass(frozen=True)
class _Look:
    """What a profiled model told: its layers that ran, ms by their names, ms of a whole call."""

    compiled: ov.CompiledModel
    layers: Sequence[Any]
    ms: Mapping[str, float]
    call_ms: float


def _counted(request: ov.InferRequest) -> dict[str, float]:
    """Mean milliseconds per call so far, by the name of the layer."""
    return {x.node_name: x.real_time.total_seconds() * 1e3 for x in request.profiling_info}


class OpenvinoSession(Session):
    """A model in OpenVINO.

    Attributes:
        cold: ``load_s``: seconds for reading; ``compile_s``: for compiling, all batch sizes
            together.
        compile_s: The latter.
    """

    def __init__(
        self,
        backend: OpenvinoBackend,
        artifact: Artifact,
        compiled: Mapping[int, ov.CompiledModel],
        load_s: float,
        compile_s: float,
    ) -> None:
        self.cold = {"load_s": load_s, "compile_s": compile_s}
        self.compile_s: float | None = compile_s
        found = sum(bool(model.get_property("LOADED_FROM_CACHE")) for model in compiled.values())
        self.compile_reason = f"{found} compiled model(s) came from backend.model_cache"
        if found:
            self.compile_s = None
        self._backend = backend
        self._artifact = artifact
        self._inputs = [spec.name for spec in artifact.inputs]
        self._compiled = dict(compiled)
        self._requests = {size: model.create_infer_request() for size, model in compiled.items()}

    def run(self, batch: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        """One inference; see ``pqbench.core.backend.Session``.

        A batch of a size that was not compiled (the last of a split) is filled up with repeated
        samples to the next larger size, or cut into pieces of the largest.

        Raises:
            UnsupportedError: A kernel refuses its inputs.
        """
        feeds = {name: batch[name] for name in self._inputs}
        count = len(feeds[self._inputs[0]])
        request = self._requests.get(count) or self._requests.get(FREE)
        if request is None:
            return run_other_size(self.run, feeds, self._requests)
        try:
            results = request.infer(feeds, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise UnsupportedError(
                f"OpenVINO cannot run {self._artifact.path.name}: {last_line(error)}"
            ) from error
        # Copied: the request writes its next outputs into the same memory.
        outputs = [output.copy() for output in results.values()]
        if len(outputs) == len(self._artifact.outputs):
            return outputs
        names = [output.get_names() for output in results]
        chosen = [next((i for i, n in enumerate(names) if w in n), None)
                  for w in self._artifact.outputs]  # fmt: skip
        return [outputs[i] for i in chosen if i is not None]

    def placement(self) -> Placement:
        """Device, precision and kernels from the compiled models' own runtime graphs.

        Kernels are those of the smallest batch size; integer or float is the same for all.

        Raises:
            PlacementError: A model runs on another device or at another precision than asked.
        """
        backend = self._backend
        for compiled in self._compiled.values():
            check_compiled(compiled, backend.target, backend.precision)
        compiled = self._compiled[min(self._compiled)]
        placement = read_layers(
            runtime_layers(compiled),
            device=backend.target,
            precision=backend.precision,
            threads=int(compiled.get_property("INFERENCE_NUM_THREADS")),
            work=products(compiled),
        )
        details = {
            "hint": str(compiled.get_property("PERFORMANCE_HINT")).rpartition(".")[2].lower(),
            "streams": int(compiled.get_property("NUM_STREAMS")),
            "requests_for_throughput": int(
                compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            ),
            "shapes": backend.shapes,
        }
        return replace(placement, details=details)

    def profile(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> dict[str, float]:
        """Milliseconds per inference by layer type and precision, compiled apart."""
        total: defaultdict[str, float] = defaultdict(float)
        looked = self._look(batch, runs)
        for layer in looked.layers:
            precision = layer.exec_type.rpartition("_")[2].lower()
            total[f"{layer.node_type} {precision}"] += looked.ms[layer.node_name]
        return {name: ms for name, ms in total.items() if ms > 0}

    def kernels(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> KernelProfile:
        """Kernel by kernel, compiled apart."""
        looked = self._look(batch, runs)
        model = self._backend.read(self._artifact)
        kernels = compiled_kernels(looked.compiled, model, looked.ms)
        return KernelProfile(kernels, looked.call_ms, file_operators(model))

    def _look(self, batch: Mapping[str, npt.NDArray[Any]], runs: int) -> _Look:
        """Run a compiled model that counts time.

        Its counters are means over all calls so far: what the first calls took is taken off again.
        Each call's time is cut to whole microseconds, and so is the mean: half of one is put back
        for either. What takes less than one on average is told like what did not run, as 0.
        """
        feeds = {name: batch[name] for name in self._inputs}
        request = self._backend.profile_request(self._artifact, len(feeds[self._inputs[0]]))
        for _ in range(_WARM_CALLS):
            request.infer(feeds, share_inputs=True, share_outputs=True)
        before = _counted(request)
        started = time.perf_counter()
        for _ in range(runs):
            request.infer(feeds, share_inputs=True, share_outputs=True)
        call_ms = (time.perf_counter() - started) * 1e3 / runs
        ms = means_since(before, _counted(request), _WARM_CALLS, runs)
        layers = [x for x in request.profiling_info if x.status == x.Status.EXECUTED]
        return _Look(request.get_compiled_model(), layers, ms, call_ms)

    def close(self) -> None:
        """Free the model; the session cannot be used afterwards."""
        self._requests.clear()
        self._compiled.clear()
