"""Build a TensorRT engine from an ONNX file, and keep it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.backends.onnx_files import cast_fp16, is_quantized, shape_at, write_aside
from pqbench.backends.tensorrt.api import (
    Library,
    check,
    judge_warnings,
    make_logger,
    one_line,
    reason,
)
from pqbench.backends.tensorrt.buffers import Buffers
from pqbench.backends.tensorrt.calibration import (
    Calibration,
    cache_file,
    check_calibrates,
    make_calibrator,
)
from pqbench.core.artifact import Artifact
from pqbench.core.calibration_batches import CalibrationBatches
from pqbench.core.errors import UnsupportedError
from pqbench.core.files import file_sha256, write_json

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class BuildOptions:
    """What decides an engine besides the model, the library and the GPU.

    Attributes:
        precision: ``fp32`` or ``fp16`` for what is not quantized.
        tf32: Float32 products may run in TF32.
        workspace_mb: Memory for tactics, in MiB.
        optimization_level: The builder's, 0 (quick build) to 5.
        capabilities: Compute capabilities to build for (``SM89``); only TensorRT-RTX knows them,
            and builds for all that it supports where none is named.
    """

    precision: str = "fp32"
    tf32: bool = False
    workspace_mb: int = 1024
    optimization_level: int = 3
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """A serialized engine.

    Attributes:
        plan: The engine.
        build_s: Seconds its build took, when it was built.
        cached: True if it was found.
        warnings: What the builder warned of.
        quantized: Whether the ONNX file has Q/DQ pairs, or TensorRT calibrated it.
        calibration: What TensorRT's own calibration used; None without one.
    """

    plan: bytes
    build_s: float
    cached: bool = False
    warnings: list[str] = field(default_factory=list)
    quantized: bool = False
    calibration: dict[str, Any] | None = None


def profile_ranges(
    artifact: Artifact, batch_sizes: Sequence[int], static: bool
) -> list[dict[str, Range]]:
    """Smallest, best and largest shape of each input, for each optimization profile.

    Args:
        artifact: The model.
        batch_sizes: The protocol's, ascending.
        static: One profile for each batch size, tuned for it alone; else one for all, tuned for
            the largest.
    """
    if static:
        sizes = [(b, b, b) for b in batch_sizes]
    else:
        sizes = [(batch_sizes[0], batch_sizes[-1], batch_sizes[-1])]
    return [
        {
            spec.name: (shape_at(spec, low), shape_at(spec, best), shape_at(spec, high))
            for spec in artifact.inputs
        }
        for low, best, high in sizes
    ]


def parse(
    library: Library, builder: tensorrt.Builder, onnx: Path, log: Any, weak: bool = False
) -> tuple[tensorrt.INetworkDefinition, Any]:
    """Parse an ONNX file.

    Args:
        library: Which TensorRT.
        builder: Of that library.
        onnx: The file.
        log: :func:`make_logger`'s.
        weak: Whether the builder chooses types; else they are the file's.

    Returns:
        The network, and the parser, which must live as long as it.

    Raises:
        UnsupportedError: The parser refuses the file, with its reasons.
    """
    trt = library.trt
    flags = 0 if weak else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: tensorrt.INetworkDefinition = builder.create_network(flags)
    parser: Any = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        errors = [one_line(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise UnsupportedError(
            f"TensorRT cannot parse {onnx.name}: {' | '.join(errors)[:600] or reason(log)}",
            hint="quantize signed and symmetric, biases in float: compress=ort_int8_trt"
            if is_quantized(onnx)
            else "choose another backend for this model",
        )
    return network, parser


def build(
    library: Library,
    onnx: Path,
    profiles: Sequence[Mapping[str, Range]],
    options: BuildOptions,
    timing_cache: Path | None = None,
    calibration: Calibration | None = None,
) -> Engine:
    """Parse an ONNX file and build an engine.

    Args:
        library: Which TensorRT.
        onnx: The file; for ``fp16`` on a strongly typed library it must be cast already.
        profiles: Shapes of the inputs, one entry per optimization profile.
        options: What to build.
        timing_cache: File of measured tactics, read and written back; a build that finds its
            tactics there is quicker and chooses the same ones again.
        calibration: Samples to find the ranges of INT8 with; None leaves float what is float.

    Raises:
        UnsupportedError: The parser or the builder refuses, with the library's reason; a warning
            says that the engine would compute something else; or the library has no calibration.
    """
    trt, log = library.trt, make_logger(library.trt)
    started = time.perf_counter()
    calibrator: Any = None if calibration is None else make_calibrator(library, calibration)
    quantized = is_quantized(onnx) or calibration is not None
    half = library.weak_typing and options.precision == "fp16"
    weak = half or calibration is not None
    builder: tensorrt.Builder = trt.Builder(log)
    network, _parser = parse(library, builder, onnx, log, weak)
    judge_warnings(log.lines)  # before minutes go into a build that is refused
    config: tensorrt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # placement reads the layers
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    if weak and quantized:
        config.set_flag(trt.BuilderFlag.INT8)
    _set_capabilities(library, config, options.capabilities)
    shapes: list[Any] = [network.get_input(i).shape for i in range(network.num_inputs)]
    free = any(-1 in tuple(shape) for shape in shapes)
    for ranges in profiles if free else ():
        if config.add_optimization_profile(_profile(builder, ranges)) < 0:
            raise UnsupportedError(f"TensorRT refuses the profile {dict(ranges)}: {reason(log)}")
    if calibration is not None:
        config.int8_calibrator = calibrator
        if free:
            one = {name: (shape, shape, shape) for name, shape in calibration.shapes().items()}
            check(
                config.set_calibration_profile(_profile(builder, one)),
                f"calibration profile {one} refused",
                log,
            )
    cache = None if library.portable else _load_timing_cache(config, timing_cache)
    built = builder.build_serialized_network(network, config)
    if calibrator is not None:
        calibrator.close()
    plan = check(built, f"cannot build {onnx.name}", log)
    calibrated = None if calibrator is None else calibrator.report()
    if cache is not None and timing_cache is not None:
        write_aside(timing_cache, bytes(memoryview(cache.serialize())))
    warnings = judge_warnings(log.lines)
    seconds = time.perf_counter() - started
    return Engine(bytes(memoryview(plan)), seconds, False, warnings, quantized, calibrated)


def _profile(builder: Any, ranges: Mapping[str, Range]) -> Any:
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in ranges.items():
        profile.set_shape(name, low, best, high)
    return profile


def _set_capabilities(library: Library, config: Any, capabilities: Sequence[str]) -> None:
    """Name the compute capabilities that the engine is for."""
    if not capabilities:
        return
    if not library.portable:
        raise UnsupportedError(
            f"{library.name} {library.version} builds for the GPU at hand only",
            hint="leave backend.capabilities empty, or use backend.library=tensorrt_rtx",
        )
    kinds = library.trt.ComputeCapability
    known = [name for name in dir(kinds) if name.startswith("SM")]
    config.num_compute_capabilities = len(capabilities)
    for place, name in enumerate(capabilities):
        if name not in known or not config.set_compute_capability(getattr(kinds, name), place):
            raise UnsupportedError(
                f"{library.name} {library.version} cannot build for {name}",
                hint=f"it knows {', '.join(known)}",
            )


def _load_timing_cache(config: Any, path: Path | None) -> Any:
    """Give the builder the timing cache of a file; an unusable one is begun anew."""
    if path is None:
        return None
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def find_or_build(
    library: Library,
    artifact: Artifact,
    batch_sizes: Sequence[int],
    static: bool,
    options: BuildOptions,
    folder: Path,
    gpu: str,
    buffers: Callable[[], Buffers] | None = None,
) -> Engine:
    """The engine of an artifact: from the folder if it was built before, else built and kept.

    The key holds everything that decides the engine: the model's content, the library with its
    version, the GPU with its driver, shapes and options.

    Args:
        library: Which TensorRT.
        artifact: The ``onnx`` or ``onnx_calibrated`` artifact.
        batch_sizes: The protocol's, ascending.
        static: See :func:`profile_ranges`.
        options: What to build.
        folder: Where engines, casts, ranges and the timing cache are kept.
        gpu: Name, compute capability and driver of the GPU.
        buffers: Makes device memory for calibration; an ``onnx_calibrated`` artifact needs it.

    Raises:
        UnsupportedError: See :func:`build`; or a float16 engine of a quantized model is asked of a
            strongly typed library.
    """
    profiles = profile_ranges(artifact, batch_sizes, static)
    what: list[Any] = [file_sha256(artifact.path), library.name, library.version, gpu, profiles]
    calibration = None
    if artifact.representation == "onnx_calibrated":
        check_calibrates(library)
        if buffers is None:
            raise ValueError("a calibrated artifact needs device memory to calibrate with")
        batches = CalibrationBatches.load(artifact)
        ranges = cache_file(library, artifact.path, batches, folder)
        calibration = Calibration(batches, ranges, buffers)
        what.append(batches.content)
    text = json.dumps([*what, asdict(options)], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    place, facts = folder / f"{key}.engine", folder / f"{key}.json"
    if place.is_file() and facts.is_file():
        return Engine(place.read_bytes(), cached=True, **json.loads(facts.read_text("utf-8")))
    source = artifact.path
    if options.precision == "fp16" and not library.weak_typing:
        if is_quantized(source):
            raise UnsupportedError(
                f"{library.name} {library.version} has no float16 switch, and a quantized model "
                "with float32 scales cannot be cast",
                hint="use backend.precision=fp32; what is quantized runs in INT8 all the same",
            )
        source = cast_fp16(source, folder / f"{file_sha256(source)[:24]}-fp16.onnx")
    folder.mkdir(parents=True, exist_ok=True)
    timing = hashlib.sha256(f"{library.name} {library.version} {gpu}".encode()).hexdigest()[:16]
    engine = build(library, source, profiles, options, folder / f"{timing}.timing", calibration)
    write_aside(place, engine.plan)
    kept = {
        "build_s": engine.build_s,
        "warnings": engine.warnings,
        "quantized": engine.quantized,
        "calibration": engine.calibration,
    }
    write_json(facts, kept)
    return engine
