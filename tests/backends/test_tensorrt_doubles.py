"""The native TensorRT path on doubles of TensorRT 10, 11 and RTX: what each version really has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorrt_doubles import CLASSES, SIDE, VERSIONS, FakeTensorrt, HostBuffers

from pqbench.backends.tensorrt.api import Library
from pqbench.backends.tensorrt.build import BuildOptions, build, find_or_build, profile_ranges
from pqbench.backends.tensorrt.layers import read_layers
from pqbench.backends.tensorrt.session import TensorrtSession
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import UnavailableError, UnsupportedError

REAL_NAMES = Path(__file__).parents[3] / "shared" / "tensorrt"


def library(fake: FakeTensorrt, version: str) -> Library:
    return Library(fake, version.partition(" ")[0], fake.__version__)


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    import onnx
    from onnx import TensorProto, helper

    shape = ["n", 3, SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    folder = tmp_path / "stages" / "model"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    spec = TensorSpec("image", (None, 3, SIDE, SIDE))
    return Artifact("onnx", folder, "model.onnx", (spec,), ("logits",))


def session(fake: FakeTensorrt, version: str, model: Artifact, **options: Any) -> TensorrtSession:
    return TensorrtSession(
        library(fake, version),
        b"an engine",
        model,
        HostBuffers(fake.host),
        options.pop("profiles", {1: 0, 4: 1}),
        largest=4,
        **options,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("static", [True, False])
def test_build_uses_only_what_the_version_has(
    version: str, precision: str, static: bool, model: Artifact, tmp_path: Path
) -> None:
    fake = FakeTensorrt(version)
    options = BuildOptions(precision=precision)
    timing = tmp_path / "timing"
    profiles = profile_ranges(model, [1, 4], static)
    engine = build(library(fake, version), model.path, profiles, options, timing)
    assert engine.plan == b"an engine"
    config = fake.made["IBuilderConfig"][0]
    flags = [call[1].name for call in config.calls if call[0] == "set_flag"]
    assert flags == (["FP16"] if version == "tensorrt 10" and precision == "fp16" else [])
    cleared = [call[1].name for call in config.calls if call[0] == "clear_flag"]
    assert cleared == ["TF32"]  # else "float32" would run with 10 bits of mantissa
    assert len(fake.made["IOptimizationProfile"]) == (2 if static else 1)
    assert timing.is_file() == (version != "tensorrt_rtx")  # there it does nothing


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_session_runs_on_each_version(version: str, cuda_graph: bool, model: Artifact) -> None:
    fake = FakeTensorrt(version)
    running = session(fake, version, model, cuda_graph=cuda_graph)
    rng = np.random.default_rng(0)
    for count in (1, 4, 3, 9, 1):  # 3 is filled up to 4; 9 is cut into 4 + 4 + 1
        image = rng.standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
        [got] = running.run({"image": image})
        want = image.reshape(count, -1).sum(axis=1, keepdims=True) * np.arange(1, CLASSES + 1)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        call = running.device_call({"image": image})
        assert (call is not None) == (count in (1, 4))  # a batch size that has a profile
        if call is not None:
            call()
    own = version == "tensorrt_rtx"
    assert running._buffers.captured == (2 if cuda_graph and not own else 0)
    if cuda_graph and own:
        [config] = fake.made["IRuntimeConfig"]
        assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    context = fake.made["IExecutionContext"][0]
    names = [call[0] for call in context.calls]
    for i, name in enumerate(names):
        if name == "execute_async_v3":
            assert "set_input_shape" in names[max(0, i - 4) : i]
    placement = running.placement()
    assert placement.quantizable == 2
    assert placement.integer == 1
    assert placement.precision == "f16"
    running.close()


@pytest.mark.parametrize(
    ("version", "call"),
    [
        ("tensorrt 11", lambda trt: trt.BuilderFlag.FP16),
        ("tensorrt_rtx", lambda trt: trt.BuilderFlag.INT8),
        ("tensorrt 11", lambda trt: trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH),
        ("tensorrt 11", lambda trt: trt.Builder(None).platform_has_fast_fp16),
        ("tensorrt 11", lambda trt: trt.make("ICudaEngine").device_memory_size),
        ("tensorrt 10", lambda trt: trt.make("IExecutionContext").execute_async_v2),
        ("tensorrt 10", lambda trt: trt.make("ICudaEngine").get_binding_shape),
        ("tensorrt 10", lambda trt: trt.ComputeCapability),
        ("tensorrt 11", lambda trt: setattr(trt.make("IBuilderConfig"), "int8_calibrator", 1)),
        ("tensorrt 10", lambda trt: trt.make("Runtime", {"get_engine_validity": len})),
    ],
)
def test_double_refuses_a_member_that_the_version_lacks(version: str, call: Any) -> None:
    with pytest.raises(AttributeError):
        call(FakeTensorrt(version))


def test_code_that_uses_a_removed_member_fails_on_the_version_without_it(
    model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a wrong feature test in our code would look like."""
    monkeypatch.setattr(Library, "weak_typing", True)
    options = BuildOptions(precision="fp16")
    build(library(FakeTensorrt("tensorrt 10"), "tensorrt 10"), model.path, [], options)
    for version in ("tensorrt 11", "tensorrt_rtx"):
        with pytest.raises(AttributeError, match="FP16"):
            build(library(FakeTensorrt(version), version), model.path, [], options)


@pytest.mark.skipif(not REAL_NAMES.is_dir(), reason=f"no lists of names at {REAL_NAMES}")
@pytest.mark.parametrize(
    ("version", "file"),
    list(zip(VERSIONS, ("api10.json", "api11.json", "apirtx.json"), strict=True)),
)
def test_names_of_the_doubles_are_those_of_the_bindings(version: str, file: str) -> None:
    real = json.loads((REAL_NAMES / file).read_text(encoding="utf-8"))
    fake = FakeTensorrt(version)
    assert fake.__version__ == real["version"]
    for name, members in fake.members.items():
        assert members == set(real["classes"][name])


@pytest.mark.parametrize("version", VERSIONS)
def test_failures_carry_the_reason_of_the_logger(version: str, model: Artifact) -> None:
    def refuse(fake: FakeTensorrt, value: Any) -> Any:
        def call(*arguments: Any) -> Any:
            fake.log.log("Severity.ERROR", "no tactic\nfor this layer")
            return value

        return call

    fake = FakeTensorrt(version)
    fake.fail = {"Builder": {"build_serialized_network": refuse(fake, None)}}
    with pytest.raises(UnsupportedError, match=r"cannot build model\.onnx: no tactic for this"):
        build(library(fake, version), model.path, [], BuildOptions())

    fake = FakeTensorrt(version, {"OnnxParser": {"parse_from_file": lambda path: False}})
    with pytest.raises(UnsupportedError, match=r"cannot parse model\.onnx: it has no such operat"):
        build(library(fake, version), model.path, [], BuildOptions())

    fake = FakeTensorrt(version)
    fake.fail = {"Runtime": {"deserialize_cuda_engine": refuse(fake, None)}}
    with pytest.raises(UnavailableError, match="no tactic for this layer"):
        session(fake, version, model)

    image = {"image": np.zeros((1, 3, SIDE, SIDE), np.float32)}
    for member in ("set_input_shape", "execute_async_v3"):
        fake = FakeTensorrt(version)
        fake.fail = {"IExecutionContext": {member: refuse(fake, False)}}
        with pytest.raises(Exception, match=r"refuse.*no tactic for this layer"):
            session(fake, version, model).run(image)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_warning_that_changes_the_model_is_an_error_with_its_cure(
    version: str, model: Artifact
) -> None:
    text = "TensorRT doesn't support QuantizeLinear with UINT8. Defaulting to INT8 instead."
    with pytest.raises(UnsupportedError, match="unsigned") as caught:
        build(library(FakeTensorrt(version, warning=text), version), model.path, [], BuildOptions())
    assert "ort_int8_trt" in caught.value.hint
    fake = FakeTensorrt(version, warning="weights were cast down")
    engine = build(library(fake, version), model.path, [], BuildOptions())
    assert engine.warnings == ["weights were cast down"]


def test_engine_is_found_again_under_a_key_of_all_that_decides_it(
    model: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "engines"

    def ask(fake: FakeTensorrt, gpu: str = "A", sizes: tuple[int, ...] = (1, 4), **options: Any):
        lib = library(fake, "tensorrt 10")
        return find_or_build(lib, model, sizes, True, BuildOptions(**options), folder, gpu)

    first = ask(FakeTensorrt("tensorrt 10", warning="careful"))
    assert not first.cached
    again = ask(FakeTensorrt("tensorrt 10", {"Builder": {"build_serialized_network": None}}))
    assert again.cached
    assert (again.plan, again.build_s, again.warnings) == (first.plan, first.build_s, ["careful"])
    newer = FakeTensorrt("tensorrt 10")
    newer.__version__ = "10.99"
    assert not ask(newer).cached
    fake = FakeTensorrt("tensorrt 10")
    assert not ask(fake, gpu="B").cached
    assert not ask(fake, sizes=(1, 8)).cached
    assert not ask(fake, precision="fp16").cached
    assert not ask(fake, tf32=True).cached
    assert len(list(folder.glob("*.engine"))) == 6


def test_read_layers_takes_engines_without_details() -> None:
    assert read_layers('{"Layers": ["conv1 + relu1"]}') == []
