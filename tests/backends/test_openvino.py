from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.openvino.graph import check_compiled, read_layers
from pqbench.core.artifact import Artifact
from pqbench.core.backend import Backend, Session
from pqbench.core.errors import ConfigError, PlacementError, UnsupportedError
from pqbench.export import convert_openvino, torch_outputs

Feed = dict[str, np.ndarray]


@pytest.mark.parametrize("shapes", ["static", "dynamic"])
def test_openvino_session_computes_what_torch_does_at_every_batch_size(
    openvino_artifact: Artifact,
    torch_artifact: Artifact,
    take: Callable[[int], Feed],
    shapes: str,
) -> None:
    backend = OpenvinoBackend(2, shapes=shapes)
    assert isinstance(backend, Backend)
    session = backend.load(openvino_artifact, [4, 1])
    assert isinstance(session, Session)
    assert session.cold["load_s"] > 0
    assert session.cold["compile_s"] == session.compile_s > 0
    # 3 is filled up to 4; 9 is cut into 4 + 4 + 1
    for count in (1, 3, 4, 9):
        got = session.run(take(count))
        assert len(got) == 1 and got[0].dtype == np.float32
        np.testing.assert_allclose(got[0], torch_outputs(torch_artifact, take(count))[0], atol=1e-5)
    session.close()


def test_openvino_outputs_survive_the_next_run(openvino_artifact: Artifact, images: Feed) -> None:
    session = OpenvinoBackend(1).load(openvino_artifact, [1])
    first = session.run({"image": images["image"][:1]})[0]
    kept = first.copy()
    session.run({"image": images["image"][1:2]})
    np.testing.assert_array_equal(first, kept)


def test_openvino_placement_reads_precision_threads_and_float_kernels(
    openvino_artifact: Artifact,
) -> None:
    placement = OpenvinoBackend(2).load(openvino_artifact, [1, 4]).placement()
    assert placement.precision == "f32"
    assert placement.threads == 2
    assert set(placement.nodes) == {"CPU"}
    assert placement.quantizable == 4
    assert placement.int8_share == 0.0
    assert placement.float_reasons["Convolution in f32"] == 3


def test_openvino_placement_tells_stored_half_precision_from_computed(
    openvino_artifact: Artifact,
    torch_artifact: Artifact,
    take: Callable[[int], Feed],
    tmp_path: Path,
) -> None:
    import openvino as ov

    model = ov.Core().read_model(openvino_artifact.path)
    ov.save_model(model, tmp_path / "model.xml", compress_to_fp16=True)
    session = OpenvinoBackend(2).load(
        replace(openvino_artifact, folder=tmp_path, file="model.xml"), [1, 4]
    )
    placement = session.placement()
    assert placement.precision == "f32"
    assert placement.int8_share == 0.0
    assert placement.float_reasons["Convolution in f32"] == 3
    exact = torch_outputs(torch_artifact, take(4))[0]
    np.testing.assert_allclose(session.run(take(4))[0], exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("fixture", ["ort_int8", "nncf_int8"])
def test_openvino_placement_counts_integer_kernels(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = convert_openvino(request.getfixturevalue(fixture), tmp_path)
    placement = OpenvinoBackend(2).load(model, [1]).placement()
    assert placement.quantizable == 4
    assert placement.integer == 4
    assert placement.int8_share == 1.0


def test_openvino_profile_tells_integer_from_float_layers(
    ort_int8: Artifact, openvino_artifact: Artifact, take: Callable[[int], Feed], tmp_path: Path
) -> None:
    model = convert_openvino(ort_int8, tmp_path)
    integer = OpenvinoBackend(1).load(model, [4]).profile(take(4), 3)
    floats = OpenvinoBackend(1).load(openvino_artifact, [4]).profile(take(4), 3)
    assert "Convolution i8" in integer and "Convolution f32" not in integer
    assert "Convolution f32" in floats
    assert all(ms >= 0 for ms in integer.values())


def fake_compiled(precision: object, devices: list[str]) -> SimpleNamespace:
    values = {"INFERENCE_PRECISION_HINT": precision, "EXECUTION_DEVICES": devices}
    return SimpleNamespace(get_property=values.__getitem__)


def test_check_compiled_refuses_another_precision_or_device() -> None:
    import openvino as ov

    check_compiled(fake_compiled(ov.Type.f32, ["CPU"]), "CPU", "f32")  # type: ignore[arg-type]
    check_compiled(fake_compiled(ov.Type.bf16, ["CPU"]), "CPU", "bf16")  # type: ignore[arg-type]
    with pytest.raises(PlacementError, match="asked OpenVINO for f32, it took bf"):
        check_compiled(fake_compiled(ov.Type.bf16, ["CPU"]), "CPU", "f32")  # type: ignore[arg-type]
    with pytest.raises(PlacementError, match="asked OpenVINO for f16, it took bf"):
        check_compiled(fake_compiled(ov.Type.bf16, ["CPU"]), "CPU", "f16")  # type: ignore[arg-type]
    with pytest.raises(PlacementError, match="asked OpenVINO for CPU"):
        check_compiled(fake_compiled(ov.Type.f32, ["GPU"]), "CPU", "f32")  # type: ignore[arg-type]


def test_openvino_load_fails_where_the_runtime_takes_another_precision(
    openvino_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino as ov

    compile_model = ov.Core.compile_model

    def ignore_hint(self: ov.Core, model: ov.Model, device: str, options: dict) -> object:  # type: ignore[type-arg]
        return compile_model(self, model, device, {**options, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(ov.Core, "compile_model", ignore_hint)
    with pytest.raises(PlacementError, match="asked OpenVINO for bf16"):
        OpenvinoBackend(1, precision="bf16").load(openvino_artifact, [1])


def test_read_layers_refuses_a_kernel_at_another_precision() -> None:
    layers = [("Input", "f32", ""), ("Convolution", "f32", "a"), ("Convolution", "bf16", "b")]
    with pytest.raises(PlacementError, match="Convolution in bf16"):
        read_layers(layers, "CPU", "f32", 1)
    placement = read_layers(layers, "CPU", "bf16", 1)
    assert placement.nodes == {"CPU": 2}
    assert placement.float_reasons == {"Convolution in f32": 1, "Convolution in bf16": 1}


def test_openvino_names_the_reason_for_a_model_it_refuses(
    openvino_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "model.xml").write_text("<net></net>")
    with pytest.raises(UnsupportedError, match=r"refuses model\.xml"):
        OpenvinoBackend(1).load(replace(openvino_artifact, folder=tmp_path), [1])


def test_openvino_tells_its_hints_apart(openvino_artifact: Artifact) -> None:
    details = {}
    for hint in ("latency", "throughput"):
        session = OpenvinoBackend(2, hint=hint).load(openvino_artifact, [1])
        details[hint] = session.placement().details
        assert details[hint]["hint"] == hint
    # Latency: one call has all threads. Throughput: room for at least as many calls side by side.
    assert details["latency"]["streams"] == 1
    assert details["throughput"]["streams"] >= details["latency"]["streams"]
    assert details["throughput"]["requests_for_throughput"] >= 1


def test_openvino_model_cache_makes_the_compile_time_null(
    openvino_artifact: Artifact, take: Callable[[int], Feed], tmp_path: Path
) -> None:
    backend = OpenvinoBackend(1, model_cache=str(tmp_path))
    first = backend.load(openvino_artifact, [1, 4])
    assert first.compile_s is not None and first.compile_s > 0
    again = backend.load(openvino_artifact, [1, 4])
    assert again.compile_s is None
    assert "backend.model_cache" in again.compile_reason
    np.testing.assert_array_equal(first.run(take(4))[0], again.run(take(4))[0])
    assert again.placement().quantizable == 4


def test_openvino_is_silent(
    openvino_artifact: Artifact, take: Callable[[int], Feed], capfd: pytest.CaptureFixture[str]
) -> None:
    session = OpenvinoBackend(2).load(openvino_artifact, [1])
    session.run(take(1))
    session.placement()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options",
    [{"device": "GPU"}, {"precision": "fp32"}, {"hint": "fast"}, {"shapes": "some"}],
)
def test_openvino_refuses_options_that_cannot_be_meant(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        OpenvinoBackend(1, **options)
