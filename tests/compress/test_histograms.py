"""Entropy and percentile calibration in two passes: the library's result, in the memory of one."""

from __future__ import annotations

import weakref
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compress_models import make_onnx, make_tiny
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.shape_inference import quant_pre_process

from pqbench.compress.calibration import draw
from pqbench.compress.histograms import collect
from pqbench.compress.ort_int8 import OrtInt8, _Reader
from pqbench.core.artifact import Artifact
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData

METHODS = {"entropy": "Entropy", "percentile": "Percentile"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    folder = tmp_path_factory.mktemp("tiny")
    return make_onnx(make_tiny(folder / "torch", split), folder / "onnx")


@pytest.mark.parametrize("method", METHODS)
def test_result_is_that_of_the_library_with_all_images_at_once(
    tmp_path: Path, source: Artifact, split: PreparedSplit, method: str
) -> None:
    data = StepData(split, seed=0, threads=1)
    (tmp_path / "ours").mkdir()
    ours = OrtInt8(calibration_size=8, method=method).apply(source, data, tmp_path / "ours")
    ready, theirs = tmp_path / "ready.onnx", tmp_path / "theirs.onnx"
    with redirect_stdout(StringIO()):
        quant_pre_process(source.path, ready)
        quantize_static(
            ready,
            theirs,
            _Reader(draw(source, data, 8)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[METHODS[method]],
            extra_options={"ActivationSymmetric": False, "QuantizeBias": True,
                           "CalibPercentile": 99.999},
        )  # fmt: skip
    a, b = (onnx.load(path).graph for path in (ours.path, theirs))
    assert [node.op_type for node in a.node] == [node.op_type for node in b.node]
    values = [{t.name: onnx.numpy_helper.to_array(t) for t in g.initializer} for g in (a, b)]
    assert values[0].keys() == values[1].keys()
    assert sum(name.endswith("_scale") for name in values[0]) > 3
    for name, array in values[0].items():
        np.testing.assert_array_equal(array, values[1][name], err_msg=name)


@pytest.mark.parametrize(("method", "magnitudes"), [("entropy", False), ("percentile", True)])
def test_histograms_do_not_grow_with_an_outlier(
    tmp_path: Path, source: Artifact, split: PreparedSplit, method: str, magnitudes: bool
) -> None:
    data = StepData(split, seed=0, threads=1)
    calm = list(draw(source, data, 4))
    feeds: list[dict[str, Any]] = [*calm, {name: 1000 * a for name, a in calm[0].items()}]
    calibrator: Any = create_calibrator(
        source.path,
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod[METHODS[method]],
    )
    found = collect(calibrator, lambda: feeds, magnitudes)
    assert set(found) == set(calibrator.tensors_to_calibrate)
    for counts, edges, low, high, *_ in found.values():
        assert len(counts) == calibrator.num_bins == len(edges) - 1
        assert edges[0] >= 0 if magnitudes else edges[0] <= low
        assert high <= edges[-1] * (1 + 1e-6)
    image = found[source.inputs[0].name][0]
    assert image.sum() == sum(next(iter(feed.values())).size for feed in feeds)


def test_activations_of_one_image_are_held_at_a_time(
    tmp_path: Path, source: Artifact, split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrator: Any = create_calibrator(
        source.path,
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=CalibrationMethod.Entropy,
    )
    session = calibrator.infer_session
    alive: list[weakref.ref[Any]] = []
    held: list[int] = []

    class Watched:
        def get_outputs(self) -> Any:
            return session.get_outputs()

        def run(self, names: list[str], feed: dict[str, Any]) -> list[Any]:
            held.append(len({id(r()) for r in alive if r() is not None}))
            outputs = session.run(names, feed)
            alive.extend(weakref.ref(output) for output in outputs)
            return outputs

    monkeypatch.setattr(calibrator, "infer_session", Watched())
    calm = list(draw(source, StepData(split, seed=0, threads=1), 5))
    found = collect(calibrator, lambda: calm, magnitudes=False)
    assert len(held) == 10
    assert max(held) <= len(found)
