"""The step trt_entropy_int8: calibration images beside an ONNX file that stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compress_models import make_onnx, make_tiny

from pqbench.compress.ort_int8 import OrtInt8
from pqbench.compress.recipe import plan
from pqbench.compress.trt_entropy import TrtEntropyInt8
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.calibration_batches import CalibrationBatches
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.measure.size import measure_files


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    folder = tmp_path_factory.mktemp("tiny")
    return make_onnx(make_tiny(folder / "torch", split), folder / "onnx")


def run(
    source: Artifact, split: PreparedSplit, folder: Path, seed: int = 0, **settings: int
) -> Artifact:
    folder.mkdir()
    return TrtEntropyInt8(**settings).apply(source, StepData(split, seed, 1), folder)


def test_trt_entropy_keeps_the_model_and_whole_batches_of_training_images(
    source: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    made = run(source, split, tmp_path / "a", calibration_size=11, batch_size=4)
    assert made.representation == "onnx_calibrated"
    assert made.path.read_bytes() == source.path.read_bytes()
    batches = CalibrationBatches.load(Artifact.load(made.folder))
    assert (len(batches), batches.count, batches.names) == (2, 8, ("input",))
    images = np.concatenate([batch["input"] for batch in batches])
    np.testing.assert_array_equal(images, split.feed(split.spread(8, 0))["input"])
    details = made.lineage[-1].details
    assert details["calibration_size"] == 8
    assert details["calibration_split"] == split.name
    assert details["calibration_arrays_sha256"] == batches.content


def test_trt_entropy_images_count_in_the_content_and_not_in_the_size(
    source: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    size = {"calibration_size": 8, "batch_size": 8}
    made = [run(source, split, tmp_path / str(seed), seed, **size) for seed in (0, 1)]
    assert made[0].content_hash() != made[1].content_hash()
    for artifact in made:
        assert artifact.model_files() == [artifact.path]
        assert measure_files(artifact)["file_bytes"] == source.path.stat().st_size


def test_trt_entropy_takes_a_fixed_batch_and_refuses_too_few_images(
    source: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    spec = TensorSpec("input", (1, *source.inputs[0].shape[1:]))
    fixed = run(replace(source, inputs=(spec,)), split, tmp_path / "a", calibration_size=11)
    assert CalibrationBatches.load(fixed).batch_size == 1
    assert fixed.lineage[-1].details["calibration_size"] == 11
    with pytest.raises(UnsupportedError, match="48 training images do not fill"):
        run(source, split, tmp_path / "b", batch_size=64)
    with pytest.raises(ConfigError, match="does not fill a batch"):
        TrtEntropyInt8(calibration_size=3, batch_size=4)


def test_trt_entropy_refuses_a_quantized_model(
    source: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    (tmp_path / "int8").mkdir()
    data = StepData(split, 0, 1)
    quantized = OrtInt8(calibration_size=2).apply(source, data, tmp_path / "int8")
    with pytest.raises(UnsupportedError, match="quantized already"):
        run(quantized, split, tmp_path / "a")


def test_trt_entropy_goes_to_tensorrt_alone_and_names_the_other_way() -> None:
    steps = {"trt_entropy_int8": TrtEntropyInt8}
    actions = plan(steps, "torch", ("onnx", "onnx_calibrated"), "tensorrt")
    assert [a.after for a in actions] == ["onnx", "onnx_calibrated"]
    with pytest.raises(UnsupportedError, match=r"calibrated ONNX model .*ort_int8_trt") as caught:
        plan(steps, "torch", ("onnx",), "tensorrt_rtx")
    assert caught.value.hint == "use backend=tensorrt"
