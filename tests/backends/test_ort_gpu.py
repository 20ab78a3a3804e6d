"""The fallback traps of ONNX Runtime's GPU providers, reproduced and caught; and bound memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from pqbench.backends.onnx_files import cast_fp16, engine_folder
from pqbench.backends.ort.backend import OrtBackend, check_placement
from pqbench.backends.ort.gpu import (
    CUDA,
    RTX,
    TENSORRT,
    OrtCudaBackend,
    OrtTensorrtBackend,
    OrtTensorrtRtxBackend,
)
from pqbench.backends.ort.session import BoundMemory
from pqbench.backends.shared_objects import missing, needed
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PlacementError, UnavailableError, UnsupportedError
from pqbench.export import torch_outputs
from pqbench.machine.cuda_driver import gpu
from pqbench.measure.session_host import Host

Feed = dict[str, np.ndarray]


@pytest.fixture
def no_gpu() -> None:
    try:
        gpu()
    except UnavailableError:
        if not {CUDA, TENSORRT} <= set(ort.get_available_providers()):
            pytest.skip("this build of ONNX Runtime has no GPU providers")
        return
    pytest.skip("there is a GPU: nothing falls back")


def raw(path: Path, providers: list[object], strict: bool = False, **options: object) -> object:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if strict:
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(str(path), settings, providers=providers, **options)


def test_trap_the_list_of_providers_is_how_it_was_compiled(no_gpu: None) -> None:
    assert ort.get_device() == "GPU"  # here, without one
    for backend in (OrtCudaBackend(threads=1), OrtTensorrtBackend(threads=1)):
        found = backend.availability()
        assert not found.available
        assert "no NVIDIA driver" in found.reason
    assert "libnvinfer.so.10" in OrtTensorrtBackend(threads=1).availability().reason


def test_trap_tensorrt_falls_back_and_prints_on_stdout(
    no_gpu: None, onnx_artifact: Artifact, tmp_path: Path
) -> None:
    code = (
        "import sys, onnxruntime as ort; "
        "s = ort.InferenceSession(sys.argv[1], providers=['TensorrtExecutionProvider']); "
        "sys.stderr.write(','.join(s.get_providers()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(onnx_artifact.path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "EP Error" in done.stdout  # would corrupt the output of a command line
    assert done.stderr.endswith("CPUExecutionProvider")  # and it runs on the CPU


def opened(backend: OrtBackend, artifact: Artifact) -> object:
    """Past the question of availability, as if the driver had lied."""
    options = backend.provider_options(artifact, artifact.path, [1, 4])
    return backend.open(backend.model_file(artifact), options)


def test_tensorrt_without_its_libraries_is_an_error_with_nothing_on_stdout(
    no_gpu: None, onnx_artifact: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend = OrtTensorrtBackend(threads=1, engine_cache=str(tmp_path))
    with pytest.raises(UnavailableError, match=r"libnvinfer\.so\.10"):
        backend.load(onnx_artifact, [1, 4])
    with pytest.raises(UnsupportedError, match="TensorRT"):
        opened(backend, onnx_artifact)
    assert capfd.readouterr().out == ""


def test_trap_cuda_falls_back_silently_even_where_that_is_forbidden(
    no_gpu: None, onnx_artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    session = raw(onnx_artifact.path, [CUDA], enable_fallback=0)
    assert session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(PlacementError, match="silently took CPUExecutionProvider"):
        check_placement(session, CUDA)
    backend = OrtCudaBackend(threads=1)
    with pytest.raises(UnavailableError, match="no NVIDIA driver"):
        backend.load(onnx_artifact, [1])
    with pytest.raises(PlacementError, match="the CPU instead"):
        opened(backend, onnx_artifact)
    # Where the CPU may take what CUDA refuses, a CUDA that is not there at all is still an error.
    with pytest.raises(PlacementError, match="silently took"):
        opened(OrtCudaBackend(threads=1, others="cpu"), onnx_artifact)
    assert capfd.readouterr().out == ""


def test_trap_naming_the_cpu_as_well_conflicts_with_the_guard(
    no_gpu: None, onnx_artifact: Artifact
) -> None:
    with pytest.raises(Exception, match="Conflicting session configuration"):
        raw(onnx_artifact.path, [CUDA, "CPUExecutionProvider"], strict=True, enable_fallback=0)


def test_trap_the_plug_in_asked_for_by_name_is_silently_the_cpu(
    no_gpu: None, onnx_artifact: Artifact
) -> None:
    session = raw(onnx_artifact.path, [RTX])
    assert session.get_providers() == ["CPUExecutionProvider"]
    backend = OrtTensorrtRtxBackend(threads=1)
    found = backend.availability()
    assert not found.available
    assert "is not installed" in found.reason or "driver" in found.reason
    with pytest.raises(UnavailableError):
        backend.load(onnx_artifact, [1])


def test_tensorrt_options_hold_profiles_caches_and_precision(
    onnx_artifact: Artifact, ort_int8: Artifact, tmp_path: Path
) -> None:
    backend = OrtTensorrtBackend(threads=1, precision="fp16", engine_cache=str(tmp_path))
    options = backend.provider_options(onnx_artifact, onnx_artifact.path, [1, 16, 64])
    assert options["trt_profile_min_shapes"] == "image:1x3x32x32"
    assert options["trt_profile_opt_shapes"] == options["trt_profile_max_shapes"]
    assert options["trt_profile_max_shapes"] == "image:64x3x32x32"
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("1", "0")
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert all(isinstance(value, str) for value in options.values())
    assert backend.provider_options(ort_int8, ort_int8.path, [1])["trt_int8_enable"] == "1"
    library = Path(ort.__file__).parent / "capi" / backend.provider_library
    if library.is_file():
        content = library.read_bytes()
        for name in options:
            assert name.encode() in content, f"{library.name} knows no option {name}"
    details = backend.details(onnx_artifact, options)
    assert details["onnx_bytes"] == onnx_artifact.path.stat().st_size
    assert details["engine_bytes"] is None  # none was built: no figure is made up
    (Path(options["trt_engine_cache_path"]) / "x.engine").write_bytes(b"12345")
    assert backend.details(onnx_artifact, options)["engine_bytes"] == 5


def test_cuda_options_switch_tf32_off() -> None:
    options = OrtCudaBackend(threads=1).provider_options(None, None, [1])  # type: ignore[arg-type]
    assert options["use_tf32"] == "0"


def test_engines_lie_beside_the_stages(onnx_artifact: Artifact, tmp_path: Path) -> None:
    from dataclasses import replace

    cached = replace(onnx_artifact, folder=tmp_path / "cache" / "stages" / "0123")
    assert engine_folder(cached, None) == tmp_path / "cache" / "engines"
    assert engine_folder(cached, "/elsewhere") == Path("/elsewhere")


def test_bound_memory_gives_what_a_plain_run_gives(
    onnx_artifact: Artifact, torch_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    """The path of the GPU providers, on the CPU's memory."""
    session = raw(onnx_artifact.path, ["CPUExecutionProvider"])
    bound = BoundMemory(session, list(onnx_artifact.outputs), "cpu")
    kept = []
    for count in (4, 1, 4):
        feed = take(count)
        before = feed["image"].copy()
        feed["image"].flags.writeable = False
        [got] = bound.run(feed)
        kept.append((got, got.copy()))
        np.testing.assert_allclose(got, torch_outputs(torch_artifact, feed)[0], atol=1e-5)
        np.testing.assert_array_equal(feed["image"], before)
    for got, copy in kept:
        np.testing.assert_array_equal(got, copy)
    assert len(bound._sets) == 2
    call = bound.call(take(4))
    call()
    binding = next(iter(bound._sets.values()))[0]
    np.testing.assert_allclose(binding.copy_outputs_to_cpu()[0], kept[2][0], atol=1e-6)


def test_host_times_calls_without_copies_at_every_batch_size(
    onnx_artifact: Artifact, take: Callable[[int], Feed]
) -> None:
    """As on a GPU, on the CPU's memory; a session on the CPU has nothing to leave out."""
    session = OrtBackend(1).load(onnx_artifact, [1, 4])
    unused: Any = None
    host = Host(session, unused, take(4), "cpu", unused, unused, {}, True, batch_sizes=[1, 4])
    assert "without_copies_ms" not in host.placement()["details"]
    session._bound = BoundMemory(session._session, list(onnx_artifact.outputs), "cpu")
    ms = host.placement()["details"]["without_copies_ms"]
    assert set(ms) == {"1", "4"}
    assert all(value > 0 for value in ms.values())


def test_fp16_cast_halves_the_file_and_keeps_inputs_and_outputs(
    onnx_artifact: Artifact, take: Callable[[int], Feed], tmp_path: Path
) -> None:
    half = cast_fp16(onnx_artifact.path, tmp_path / "half.onnx")
    [got] = ort.InferenceSession(half).run(None, take(4))
    [exact] = ort.InferenceSession(onnx_artifact.path).run(None, take(4))
    assert got.dtype == np.float32
    assert 0 < np.abs(got - exact).max() < 0.02
    stamp = half.stat().st_mtime_ns
    assert cast_fp16(onnx_artifact.path, half).stat().st_mtime_ns == stamp


def test_fp16_of_a_quantized_model_is_refused(ort_int8: Artifact, tmp_path: Path) -> None:
    backend = OrtCudaBackend(threads=1, precision="fp16", engine_cache=str(tmp_path))
    with pytest.raises(ConfigError, match="quantized"):
        backend.model_file(ort_int8)


def test_needed_reads_what_a_library_links() -> None:
    for entry in Path("/proc/self/maps").read_text().splitlines():
        if entry.endswith("libstdc++.so.6") or "/libstdc++.so.6." in entry:
            path = Path(entry.split()[-1])
            assert {"libc.so.6", "libm.so.6"} <= set(needed(path))
            assert missing(path) == []
            return
    pytest.skip("no libstdc++ in this process")


def test_needed_of_another_format_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.dll").write_bytes(b"MZ" + bytes(100))
    assert needed(tmp_path / "x.dll") == []


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (OrtCudaBackend, {"others": "cuda"}),
        (OrtCudaBackend, {"conv_search": "best"}),
        (OrtCudaBackend, {"precision": "int8"}),
        (OrtTensorrtBackend, {"others": "gpu"}),
        (OrtTensorrtBackend, {"optimization_level": 9}),
        (OrtTensorrtBackend, {"workspace_mb": 0}),
        (OrtTensorrtRtxBackend, {"device": "cpu"}),
    ],
)
def test_gpu_providers_refuse_options_that_cannot_be_meant(
    cls: type[OrtBackend], options: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        cls(threads=1, **options)  # type: ignore[arg-type]
