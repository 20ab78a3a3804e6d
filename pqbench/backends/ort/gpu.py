"""ONNX Runtime's GPU providers: CUDA, TensorRT, and the TensorRT-RTX plug-in.

``onnxruntime.get_available_providers`` says only how the package was compiled. What decides is
asked here before a model is touched: the driver, and every shared library that a provider needs.

https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pqbench.backends.onnx_files import cast_fp16, engine_folder, is_quantized, profile_text
from pqbench.backends.ort.backend import PROVIDERS, OrtBackend
from pqbench.backends.shared_objects import missing
from pqbench.backends.support import first_line, library, one_of
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError, UnavailableError
from pqbench.machine.cuda_driver import DRIVER, gpu, parse_device

if TYPE_CHECKING:
    import onnxruntime as ort

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
RTX = "NvTensorRTRTXExecutionProvider"
RTX_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
OTHERS = {"none": (), "cuda": (CUDA,), "cpu": (PROVIDERS["cpu"],)}


class OrtGpuBackend(OrtBackend):
    """What the GPU providers share.

    Args:
        threads: Threads for what stays on the CPU; None takes all usable cores.
        device: ``cuda`` or ``cuda:<index>``.
        graph_optimization: ``all``, ``extended``, ``basic`` or ``disabled``.
        others: Where nodes may run that the provider refuses: ``none`` (then loading fails),
            ``cuda``, or ``cpu``. Where they ran is in the placement.
        precision: ``fp32`` or ``fp16`` for what is not quantized.
        engine_cache: Folder for engines and timing caches; None takes one beside the stages.
    """

    provider_name: ClassVar[str]
    hint: ClassVar[str]
    provider_library: ClassVar[str] = ""

    def __init__(
        self,
        threads: int | None = None,
        device: str = "cuda:0",
        graph_optimization: str = "all",
        others: str = "none",
        precision: str = "fp32",
        engine_cache: str | None = None,
    ) -> None:
        super().__init__(threads, graph_optimization=graph_optimization)
        self.provider = self.provider_name
        self.index = parse_device(device)
        self.device = f"cuda:{self.index}"
        self.others = OTHERS[one_of("others", others, tuple(OTHERS))]
        if self.provider in self.others:
            raise ConfigError(f"backend.others={others} is the provider itself")
        self.precision = one_of("precision", precision, ("fp32", "fp16"))
        self.engine_cache = engine_cache

    def _library(self) -> Any:
        ort = super()._library()
        problems, hints = [], []
        try:
            gpu(self.index)
        except UnavailableError as error:
            problems.append(error.message)
            hints.append(error.hint)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints some of what is asked below
            ort.preload_dlls()
        lacking = self._missing(ort)
        if lacking:
            problems.append(f"{self.provider} lacks {', '.join(lacking)}")
            hints.append(self.hint)
        if problems:
            raise UnavailableError("; ".join(problems), hint="; ".join(hints))
        return ort

    def _missing(self, ort: Any) -> list[str]:
        """Shared libraries that the provider needs and this machine lacks."""
        path = Path(ort.__file__).parent / "capi" / self.provider_library
        own = {"libonnxruntime_providers_shared.so", DRIVER}  # beside it; asked apart
        return [name for name in missing(path) if name not in own] if path.is_file() else []

    def _options(self) -> ort.SessionOptions:
        import onnxruntime as ort

        # A provider that cannot be loaded is reported by the default logger, once for each try.
        ort.set_default_logger_severity(4)
        return super()._options()

    def half_file(self, artifact: Artifact) -> Path:
        """The model cast to float16."""
        if is_quantized(artifact.path):
            raise ConfigError(
                "backend.precision=fp16 with a quantized model is not possible on "
                f"{self.provider}: its scales are float32",
                hint="use precision=fp32; what is quantized runs in INT8 all the same",
            )
        name = f"{artifact.content_hash()[:16]}-fp16.onnx"
        return cast_fp16(artifact.path, engine_folder(artifact, self.engine_cache) / name)


class OrtCudaBackend(OrtGpuBackend):
    """ONNX Runtime's CUDA provider.

    Args:
        tf32: Let float32 products run in TF32; ONNX Runtime's own default is true.
        conv_search: How cuDNN's convolution algorithm is chosen: ``exhaustive``, ``heuristic`` or
            ``default``.
        options: ``OrtGpuBackend``'s.
    """

    provider_name = CUDA
    provider_library = "libonnxruntime_providers_cuda.so"
    hint = "pip install 'onnxruntime-gpu[cuda,cudnn]'"

    def __init__(self, tf32: bool = False, conv_search: str = "exhaustive", **options: Any) -> None:
        super().__init__(**options)
        self.tf32 = tf32
        self.conv_search = one_of(
            "conv_search", conv_search, ("exhaustive", "heuristic", "default")
        )

    def model_file(self, artifact: Artifact) -> Path:
        """The model, cast to float16 if asked: the provider computes in the model's own types."""
        return artifact.path if self.precision == "fp32" else self.half_file(artifact)

    def provider_options(
        self, artifact: Artifact, path: Path, batch_sizes: Sequence[int]
    ) -> dict[str, Any]:
        """Options of the execution provider."""
        del artifact, path, batch_sizes
        return {
            "device_id": str(self.index),
            "use_tf32": str(int(self.tf32)),
            "cudnn_conv_algo_search": self.conv_search.upper(),
        }


class OrtTensorrtBackend(OrtGpuBackend):
    """ONNX Runtime's TensorRT provider.

    Engines are built for the protocol's batch sizes (one profile from the smallest to the largest,
    tuned for the largest) and kept, with the timing cache, in the engine folder. Q/DQ models are
    built with INT8 switched on.

    Args:
        workspace_mb: Memory for tactics while building, in MiB.
        optimization_level: The builder's, 0 (quick build) to 5.
        min_subgraph: Least number of nodes that are worth an engine.
        tf32: Let float32 products run in TF32; TensorRT's own default is true.
        options: ``OrtGpuBackend``'s.
    """

    provider_name = TENSORRT
    provider_library = "libonnxruntime_providers_tensorrt.so"
    hint = "install TensorRT 10 (libnvinfer.so.10): pip install 'tensorrt>=10.9,<11'"
    keeps_graph = False

    def __init__(
        self,
        workspace_mb: int = 1024,
        optimization_level: int = 3,
        min_subgraph: int = 1,
        tf32: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for key, value, low, high in (
            ("workspace_mb", workspace_mb, 1, 1 << 20),
            ("optimization_level", optimization_level, 0, 5),
            ("min_subgraph", min_subgraph, 1, 1 << 20),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"backend.{key}={value} is not possible", hint=f"it lies in {low}..{high}"
                )
        self.workspace_mb = workspace_mb
        self.optimization_level = optimization_level
        self.min_subgraph = min_subgraph
        self.tf32 = tf32

    def provider_options(
        self, artifact: Artifact, path: Path, batch_sizes: Sequence[int]
    ) -> dict[str, Any]:
        """Options of the execution provider, as text, for one engine over all batch sizes."""
        folder = engine_folder(artifact, self.engine_cache) / "ort_tensorrt"
        engines = folder / artifact.content_hash()[:16]
        engines.mkdir(parents=True, exist_ok=True)
        specs = artifact.inputs
        return {
            "device_id": str(self.index),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
            "trt_fp16_enable": str(int(self.precision == "fp16")),
            "trt_int8_enable": str(int(is_quantized(path))),
            "trt_profile_min_shapes": profile_text(specs, batch_sizes[0]),
            "trt_profile_opt_shapes": profile_text(specs, batch_sizes[-1]),
            "trt_profile_max_shapes": profile_text(specs, batch_sizes[-1]),
            "trt_max_workspace_size": str(self.workspace_mb << 20),
            "trt_builder_optimization_level": str(self.optimization_level),
            "trt_min_subgraph_size": str(self.min_subgraph),
        }

    def _session(
        self, path: Path, options: ort.SessionOptions, provider_options: dict[str, Any]
    ) -> ort.InferenceSession:
        if not self.tf32:  # there is no option of the provider; NVIDIA's libraries all read this
            os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
        session = super()._session(path, options, provider_options)
        taken = session.get_provider_options().get(self.provider, {})
        for key in ("trt_fp16_enable", "trt_int8_enable"):
            if taken and _on(taken.get(key)) != _on(provider_options[key]):
                raise PlacementError(
                    f"asked {self.provider} for {key}={provider_options[key]}, it has "
                    f"{taken.get(key)}",
                    hint="this version of ONNX Runtime or TensorRT does not have that option",
                )
        return session

    def details(self, artifact: Artifact, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options, precision, and the sizes of engine and ONNX file."""
        folder = Path(options["trt_engine_cache_path"])
        return {
            "provider_options": {k: v for k, v in options.items() if not k.endswith("_path")},
            "precision": {"fp32": "tf32" if self.tf32 else "f32", "fp16": "f16"}[self.precision],
            "onnx_bytes": artifact.path.stat().st_size,
            "engine_bytes": sum(f.stat().st_size for f in folder.rglob("*.engine")) or None,
        }


def _on(value: Any) -> bool:
    return str(value).lower() in ("1", "true")


class OrtTensorrtRtxBackend(OrtGpuBackend):
    """The TensorRT-RTX plug-in: an execution provider in a package of its own.

    It is registered, its devices are asked for, and only those are given to the session; asked for
    by name alone, ONNX Runtime would silently take the CPU.
    """

    provider_name = RTX
    hint = "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"
    keeps_graph = False
    distributions = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-ep-nv-tensorrt-rtx-cu13")

    def _library(self) -> Any:
        ort = library("onnxruntime", "onnxruntime")
        plugin = library(RTX_MODULE, self.hint.rpartition(" ")[2])
        gpu(self.index)
        if self.provider not in {device.ep_name for device in ort.get_ep_devices()}:
            try:
                ort.register_execution_provider_library(
                    plugin.get_ep_name(), plugin.get_library_path()
                )
            except RuntimeError as error:
                raise UnavailableError(
                    f"{self.provider} cannot be loaded: {first_line(error)}",
                    hint="TensorRT-RTX runs on NVIDIA RTX GPUs (compute capability 8.6, 8.9, 12.0)",
                ) from error
        if not self._devices(ort):
            raise UnavailableError(
                f"{self.provider} finds no GPU that it supports",
                hint="TensorRT-RTX runs on NVIDIA RTX GPUs (compute capability 8.6, 8.9, 12.0)",
            )
        return ort

    def _devices(self, ort: Any) -> list[Any]:
        return [device for device in ort.get_ep_devices() if device.ep_name == self.provider]

    def model_file(self, artifact: Artifact) -> Path:
        """The model, cast to float16 if asked: TensorRT-RTX builds strongly typed."""
        return artifact.path if self.precision == "fp32" else self.half_file(artifact)

    def provider_options(
        self, artifact: Artifact, path: Path, batch_sizes: Sequence[int]
    ) -> dict[str, Any]:
        """Options of the plug-in, as text."""
        del path
        folder = engine_folder(artifact, self.engine_cache) / "ort_tensorrt_rtx"
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "nv_profile_min_shapes": profile_text(artifact.inputs, batch_sizes[0]),
            "nv_profile_opt_shapes": profile_text(artifact.inputs, batch_sizes[-1]),
            "nv_profile_max_shapes": profile_text(artifact.inputs, batch_sizes[-1]),
            "nv_runtime_cache_path": str(folder),
        }

    def details(self, artifact: Artifact, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options and precision."""
        return {
            "provider_options": {k: v for k, v in options.items() if not k.endswith("_path")},
            "precision": {"fp32": "f32", "fp16": "f16"}[self.precision],
            "onnx_bytes": artifact.path.stat().st_size,
        }

    def _session(
        self, path: Path, options: ort.SessionOptions, provider_options: dict[str, Any]
    ) -> ort.InferenceSession:
        import onnxruntime as ort

        devices = self._devices(ort)
        options.add_provider_for_devices([devices[self.index]], provider_options)
        return ort.InferenceSession(str(path), sess_options=options, enable_fallback=0)
