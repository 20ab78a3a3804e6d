"""TensorRT 10's own INT8 calibration, on doubles of the three libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hydra import compose, initialize_config_dir
from onnx import TensorProto, helper
from tensorrt_doubles import SIDE, FakeTensorrt, HostBuffers

from pqbench.app.arguments import config_folder
from pqbench.backends.tensorrt import backend as tensorrt_backend
from pqbench.backends.tensorrt.api import Library
from pqbench.backends.tensorrt.backend import TensorrtBackend
from pqbench.backends.tensorrt.build import BuildOptions, Engine, find_or_build
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.backend import Availability
from pqbench.core.calibration_batches import write_batches
from pqbench.core.errors import OutOfMemoryFailure, UnsupportedError
from pqbench.experiment import config as schema
from pqbench.experiment.run import ExperimentRun

COUNT, BATCH = 6, 2


def library(fake: FakeTensorrt, version: str = "tensorrt 10") -> Library:
    return Library(fake, version.partition(" ")[0], fake.__version__)


def images(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((COUNT, 3, SIDE, SIDE)).astype(np.float32)


def model(folder: Path, seed: int = 0, batch_size: int = BATCH) -> Artifact:
    shape = ["n", 3, SIDE, SIDE]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    samples: Iterator[dict[str, Any]] = ({"image": image[None]} for image in images(seed))
    write_batches(folder, ("image",), samples, COUNT, batch_size)
    spec = TensorSpec("image", (None, 3, SIDE, SIDE))
    return Artifact("onnx_calibrated", folder, "model.onnx", (spec,), ("logits",))


def ask(
    fake: FakeTensorrt,
    artifact: Artifact,
    folder: Path,
    version: str = "tensorrt 10",
    **options: Any,
) -> tuple[Engine, list[HostBuffers]]:
    made: list[HostBuffers] = []

    def buffers() -> HostBuffers:
        made.append(HostBuffers(fake.host))
        return made[-1]

    chosen = BuildOptions(**options)
    lib = library(fake, version)
    return find_or_build(lib, artifact, (1, 4), True, chosen, folder, "A", buffers), made


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_calibration_feeds_every_batch_once_and_in_order(
    free: bool, precision: str, tmp_path: Path
) -> None:
    fake = FakeTensorrt("tensorrt 10", free=free)
    engine, made = ask(fake, model(tmp_path / "a"), tmp_path / "engines", precision=precision)
    assert len(fake.calibrated) == COUNT // BATCH
    np.testing.assert_array_equal(np.concatenate(fake.calibrated), images(0))
    assert len(made) == 1
    assert not fake.host, "the device memory of calibration is not freed"
    assert engine.quantized
    assert engine.calibration is not None
    assert engine.calibration["batches"] == COUNT // BATCH
    assert engine.calibration["ranges_found"] is False
    config = fake.made["IBuilderConfig"][0]
    flags = [call[1].name for call in config.calls if call[0] == "set_flag"]
    assert flags == (["FP16", "INT8"] if precision == "fp16" else ["INT8"])
    network = [call for call in fake.made["Builder"][0].calls if call[0] == "create_network"]
    assert network == [("create_network", 0)], "a strongly typed network is never calibrated"
    profiles = [profile.calls for profile in fake.made.get("IOptimizationProfile", [])]
    one = (BATCH, 3, SIDE, SIDE)
    assert profiles[2:] == ([[("set_shape", "image", one, one, one)]] if free else [])


def test_calibration_ranges_are_found_by_a_second_build(tmp_path: Path) -> None:
    artifact, folder = model(tmp_path / "a"), tmp_path / "engines"
    ask(FakeTensorrt("tensorrt 10"), artifact, folder)
    [ranges] = folder.glob("*.calibration")
    assert ranges.read_bytes() == b"ranges"
    fake = FakeTensorrt("tensorrt 10")
    other, made = ask(fake, artifact, folder, precision="fp16")
    assert not other.cached
    assert (fake.calibrated, made) == ([], [])
    assert other.calibration is not None
    assert other.calibration["ranges_found"] is True
    again, _ = ask(FakeTensorrt("tensorrt 10"), artifact, folder, precision="fp16")
    assert again.cached
    assert again.calibration == other.calibration
    newer = FakeTensorrt("tensorrt 10")
    newer.__version__ = "10.99"
    assert ask(newer, artifact, folder)[0].calibration != other.calibration
    assert len(newer.calibrated) == COUNT // BATCH, "ranges are not those of another release"


def test_calibration_content_is_in_both_keys(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    settings = ({}, {"seed": 1}, {"batch_size": 3})
    for i, setting in enumerate(settings):
        fake = FakeTensorrt("tensorrt 10")
        engine, _ = ask(fake, model(tmp_path / str(i), **setting), folder)
        assert not engine.cached
        assert fake.calibrated
    assert len(list(folder.glob("*.engine"))) == len(settings)
    assert len(list(folder.glob("*.calibration"))) == len(settings)
    assert ask(FakeTensorrt("tensorrt 10"), model(tmp_path / "same"), folder)[0].cached


@pytest.mark.parametrize("version", ["tensorrt 11", "tensorrt_rtx"])
def test_calibration_is_refused_where_the_library_has_none(version: str, tmp_path: Path) -> None:
    fake = FakeTensorrt(version)
    assert not hasattr(fake, "IInt8EntropyCalibrator2")
    with pytest.raises(UnsupportedError, match="no INT8 calibration") as caught:
        ask(fake, model(tmp_path / "a"), tmp_path / "engines", version)
    assert "ort_int8_trt" in caught.value.hint
    assert "Builder" not in fake.made


def test_backend_refuses_before_work_what_the_installed_library_cannot_calibrate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TensorrtBackend().loads == ("onnx", "onnx_calibrated")
    assert TensorrtBackend(library="tensorrt_rtx").loads == ("onnx",)
    for version in ("tensorrt 11", "tensorrt_rtx"):
        found = library(FakeTensorrt(version), version)
        monkeypatch.setattr(tensorrt_backend, "load_library", lambda choice, lib=found: lib)
        TensorrtBackend().check_loads("onnx")
        with pytest.raises(UnsupportedError, match="no INT8 calibration") as caught:
            TensorrtBackend().check_loads("onnx_calibrated")
        assert "ort_int8_trt" in caught.value.hint
    found = library(FakeTensorrt("tensorrt 10"))
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda choice: found)
    TensorrtBackend().check_loads("onnx_calibrated")


def test_calibration_failure_in_a_callback_is_raised_and_leaves_no_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: HostBuffers, nbytes: int) -> int:
        raise OutOfMemoryFailure("the GPU's memory does not suffice")

    monkeypatch.setattr(HostBuffers, "allocate", full)
    with pytest.raises(OutOfMemoryFailure):
        ask(FakeTensorrt("tensorrt 10"), model(tmp_path / "a"), tmp_path / "engines")
    assert list((tmp_path / "engines").iterdir()) == []


def test_calibration_that_the_builder_leaves_out_is_an_error(tmp_path: Path) -> None:
    fail = {"Builder": {"build_serialized_network": lambda network, config: b"an engine"}}
    with pytest.raises(UnsupportedError, match="took 0 of 3 calibration batches"):
        ask(FakeTensorrt("tensorrt 10", fail), model(tmp_path / "a"), tmp_path / "engines")


def test_calibration_keeps_the_builder_s_reason(tmp_path: Path) -> None:
    fake = FakeTensorrt("tensorrt 10")

    def refuse(network: Any, config: Any) -> None:
        fake.log.log("Severity.ERROR", "no tactic for this layer")

    fake.fail = {"Builder": {"build_serialized_network": refuse}}
    with pytest.raises(UnsupportedError, match="no tactic for this layer"):
        ask(fake, model(tmp_path / "a"), tmp_path / "engines")


def test_experiment_that_cannot_calibrate_is_refused_before_any_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.register()
    overrides = ["backend=tensorrt", "compress=trt_entropy_int8", f"outputs={tmp_path / 'out'}"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = schema.read(compose("config", overrides=[*overrides, "tracking=none"]))
    found = library(FakeTensorrt("tensorrt 11"), "tensorrt 11")
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda choice: found)
    here = Availability(True, "cuda:0", {})
    monkeypatch.setattr(TensorrtBackend, "availability", lambda self: here)
    baselines: list[ExperimentRun] = []
    monkeypatch.setattr(ExperimentRun, "_baseline", lambda self: baselines.append(self))
    run = ExperimentRun(config, tmp_path / "run")
    record = run.run()
    assert (record.status, baselines, record.stages) == ("unsupported", [run], [])
    assert record.error is not None
    assert "ort_int8_trt" in record.error.hint
