"""Real engine builds with TensorRT-RTX, which need no GPU, and what it says where it cannot run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rtx_engines

from pqbench.backends.onnx_files import cast_fp16, is_quantized
from pqbench.backends.tensorrt.api import Library, load_library
from pqbench.backends.tensorrt.backend import TensorrtBackend
from pqbench.backends.tensorrt.build import BuildOptions, build, find_or_build, profile_ranges
from pqbench.backends.tensorrt.session import TensorrtSession
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.core.errors import ConfigError, UnavailableError, UnsupportedError
from pqbench.export import export_onnx
from pqbench.nets.checkpoint import build_network, save_network

SIDE = 64
MODELS = ("resnet18", "mobilenet_v3_large")


@pytest.fixture(scope="module")
def rtx() -> Library:
    try:
        return load_library("tensorrt_rtx")
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    import torch

    torch.manual_seed(0)
    builder = {"_target_": f"torchvision.models.{request.param}"}
    root = tmp_path_factory.mktemp(request.param)
    spec = TensorSpec("image", (None, 3, SIDE, SIDE))
    source = save_network(
        build_network(builder), builder, root / "torch", (spec,), ("logits",),
        (LineageEntry("source", 0.0),),
    )  # fmt: skip
    return export_onnx(source, root / "onnx", {"image": np.zeros((2, 3, SIDE, SIDE), np.float32)})


def quantized(artifact: Artifact, folder: Path, signed: bool, quantize_bias: bool) -> Artifact:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    spec = artifact.inputs[0]
    shape = (2, *spec.shape[1:])

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            self.left = [{spec.name: image}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    folder.mkdir()
    quantize_static(
        artifact.path,
        folder / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": signed, "QuantizeBias": quantize_bias},
    )
    return replace(artifact, folder=folder)


def test_real_builds_fp32_fp16_int8_static_and_dynamic(
    rtx: Library, exported: Artifact, tmp_path: Path
) -> None:
    """One export serves all: it takes longer than the builds."""
    path = exported.path
    static = build(rtx, path, profile_ranges(exported, [1, 4], True), BuildOptions())
    dynamic = build(rtx, path, profile_ranges(exported, [1, 4, 16], False), BuildOptions())
    for engine in (static, dynamic):
        assert len(engine.plan) > path.stat().st_size / 2
        assert not engine.warnings and not engine.quantized and engine.build_s > 0
    half = cast_fp16(path, tmp_path / "half.onnx")
    assert half.stat().st_size < 0.6 * path.stat().st_size
    ranges = profile_ranges(exported, [1, 4], False)
    small = build(rtx, half, ranges, BuildOptions(precision="fp16"))
    assert len(small.plan) < 0.7 * len(static.plan)
    signed = quantized(exported, tmp_path / "signed", signed=True, quantize_bias=False)
    integer = build(rtx, signed.path, ranges, BuildOptions())
    assert integer.quantized and not integer.warnings
    # An engine's size is not that of the INT8 file: both are reported, neither stands for the other
    assert len(integer.plan) > signed.path.stat().st_size


def test_what_tensorrt_cannot_take_is_refused_with_its_reason_and_the_cure(
    rtx: Library, onnx_artifact: Artifact, tmp_path: Path
) -> None:
    unsigned = quantized(onnx_artifact, tmp_path / "unsigned", signed=False, quantize_bias=False)
    bias = quantized(onnx_artifact, tmp_path / "bias", signed=True, quantize_bias=True)
    for model, words in ((unsigned, "ero zero point"), (bias, "type Int32")):
        with pytest.raises(UnsupportedError, match=words) as caught:
            build(rtx, model.path, profile_ranges(model, [1], True), BuildOptions())
        assert "ort_int8_trt" in caught.value.hint
        assert "\n" not in caught.value.message


def test_table_of_engines_says_what_is_in_them_or_why_there_is_none(
    rtx: Library, onnx_artifact: Artifact, tmp_path: Path
) -> None:
    unsigned = quantized(onnx_artifact, tmp_path / "unsigned", signed=False, quantize_bias=False)
    *_, whole, half, refused = rtx_engines.engines([onnx_artifact.path, unsigned.path])
    shape = onnx_artifact.inputs[0].shape[1:]
    for line in (whole, half):
        assert f"{onnx_artifact.inputs[0].name} (N, {', '.join(map(str, shape))}) float" in line
        assert "0 quantizers" in line
    assert ", FP16 |" in half
    sizes = [int(line.split("|")[3]) for line in (whole, half)]
    assert sizes[1] < sizes[0]
    assert "refused" in refused and "ero zero point" in refused
    assert {line.count("|") for line in (whole, half, refused)} == {9}


def test_unsigned_activations_read_as_signed_are_an_error(
    rtx: Library, onnx_artifact: Artifact, tmp_path: Path
) -> None:
    """NNCF's default: uint8 with zero point 0 behind a ReLU, which the parser takes for int8."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        QuantizationParameters,
    )

    image = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    per_tensor = AdvancedQuantizationParameters(
        activations_quantization_params=QuantizationParameters(per_channel=False)
    )
    model = nncf.quantize(
        onnx.load(onnx_artifact.path),
        nncf.Dataset([{"image": image}]),
        subset_size=1,
        advanced_parameters=per_tensor,
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="unsigned activations as signed") as caught:
        build(
            rtx, tmp_path / "model.onnx", profile_ranges(onnx_artifact, [1], True), BuildOptions()
        )
    assert "signed and symmetric" in caught.value.hint


def test_compute_capabilities_are_named_or_refused(rtx: Library, onnx_artifact: Artifact) -> None:
    ranges = profile_ranges(onnx_artifact, [1], True)
    engine = build(rtx, onnx_artifact.path, ranges, BuildOptions(capabilities=("SM89", "SM120")))
    assert engine.plan
    with pytest.raises(UnsupportedError, match="cannot build for SM90") as caught:
        build(rtx, onnx_artifact.path, ranges, BuildOptions(capabilities=("SM90",)))
    assert "SM89" in caught.value.hint


def test_engine_is_built_once_and_its_failure_to_run_has_the_librarys_reason(
    rtx: Library, onnx_artifact: Artifact, tmp_path: Path
) -> None:
    def ask() -> object:
        return find_or_build(rtx, onnx_artifact, [1, 4], True, BuildOptions(), tmp_path, "none")

    first, again = ask(), ask()
    assert (first.cached, again.cached) == (False, True)
    assert first.plan == again.plan
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UnavailableError, match=r"cannot load its engine here: .*CUDA driver"):
        TensorrtSession(rtx, first.plan, onnx_artifact, object(), {1: 0, 4: 1}, 4)


def test_fp16_of_a_quantized_model_is_refused_where_types_are_strong(
    rtx: Library, ort_int8: Artifact, tmp_path: Path
) -> None:
    assert is_quantized(ort_int8.path)
    options = BuildOptions(precision="fp16")
    with pytest.raises(UnsupportedError, match="float16"):
        find_or_build(rtx, ort_int8, [1], True, options, tmp_path, "none")


def test_empty_module_of_type_stubs_is_not_taken_for_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    if "tensorrt" in sys.modules:
        pytest.skip("TensorRT is loaded")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("class Builder: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnavailableError, match="empty"):
        load_library("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


@pytest.mark.parametrize(
    "options",
    [
        {"library": "trt"},
        {"precision": "int8"},
        {"buffers": "numpy"},
        {"shapes": "some"},
        {"device": "cpu"},
        {"optimization_level": 6},
        {"workspace_mb": 0},
        {"buffers": "pycuda", "cuda_graph": True},
    ],
)
def test_tensorrt_refuses_options_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        TensorrtBackend(1, **options)  # type: ignore[arg-type]
