"""Histograms of activations for ONNX Runtime's entropy and percentile calibration, in two passes.

ONNX Runtime's tool keeps the activations of all images at once, or, asked to take them one by one
(``CalibStridedMinMax``), widens a histogram by bins of its first image's width whenever a later
image goes beyond it: an outlier a thousand times as large makes a thousand times as many bins, and
the entropy search is quadratic in them. Here a first pass finds the range of every tensor over all
images and a second one counts into bins of that range. Histograms add up, so the result is that of
all images at once, in the memory of one.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feeds = Iterable[Mapping[str, npt.NDArray[Any]]]


@dataclass
class Range:
    """Extremes of a tensor over all images.

    Attributes:
        low: Least value.
        high: Largest value.
        nearest: Least absolute value.
    """

    low: Any
    high: Any
    nearest: Any

    def include(self, values: npt.NDArray[Any]) -> None:
        """Widen by the values of another image."""
        other = range_of(values)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.nearest = min(self.nearest, other.nearest)

    @property
    def threshold(self) -> Any:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))


def range_of(values: npt.NDArray[Any]) -> Range:
    """Extremes of one image's values; zeros where there are none, as ONNX Runtime's tool has it."""
    if not values.size:
        zero = values.dtype.type(0)
        return Range(zero, zero, zero)
    low, high = np.nanmin(values), np.nanmax(values)
    nearest = low if low >= 0 else -high if high <= 0 else np.nanmin(np.absolute(values))
    return Range(low, high, nearest)


def _outputs(calibrator: Any, feeds: Feeds) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Every activation to calibrate of every image, one image in memory."""
    session = calibrator.infer_session
    wanted = set(calibrator.tensors_to_calibrate)
    names = [node.name for node in session.get_outputs() if node.name in wanted]
    for feed in feeds:
        yield from zip(names, session.run(names, dict(feed)), strict=True)


def collect(calibrator: Any, feeds: Callable[[], Feeds], magnitudes: bool) -> dict[str, Any]:
    """The histogram of every tensor over all images.

    Args:
        calibrator: ONNX Runtime's, with its session made (``HistogramCalibrater``).
        feeds: Gives the images, each time from the first.
        magnitudes: Of absolute values, as symmetric percentile calibration wants it.

    Returns:
        By tensor what ``HistogramCollector.histogram_dict`` holds: counts, edges, least and largest
        value, and without ``magnitudes`` the largest absolute value.
    """
    ranges: dict[str, Range] = {}
    for name, values in _outputs(calibrator, feeds()):
        if name in ranges:
            ranges[name].include(values)
        else:
            ranges[name] = range_of(values)
    bins: int = calibrator.num_bins
    found: dict[str, Any] = {}
    for name, values in _outputs(calibrator, feeds()):
        seen = ranges[name]
        flat = values.ravel()
        low = seen.nearest if magnitudes else -seen.threshold
        counts, edges = np.histogram(
            np.absolute(flat) if magnitudes else flat, bins, range=(low, seen.threshold)
        )
        if name in found:
            found[name][0][:] += counts
        elif magnitudes:
            found[name] = (
                counts,
                edges.astype(values.dtype),
                np.array(seen.low),
                np.array(seen.high),
            )
        else:
            threshold = np.array(seen.threshold, values.dtype)
            found[name] = (counts, edges, np.array(seen.low), np.array(seen.high), threshold)
    return found


def write_ranges(
    model: Path,
    target: Path,
    feeds: Callable[[], Feeds],
    method: str,
    percentile: float,
    op_types: list[str] | None,
) -> None:
    """Calibrate and write the ranges as the cache file that ``quantize_static`` reads.

    Args:
        model: The pre-processed ONNX file.
        target: JSON file to write; the augmented model goes beside it.
        feeds: Gives the images, each time from the first.
        method: ``Entropy`` or ``Percentile``.
        percentile: Share of the values kept by ``Percentile``, in percent.
        op_types: Operator types to quantize; None takes all that ONNX Runtime can.
    """
    from onnxruntime.quantization.calibrate import (
        CalibrationMethod,
        HistogramCollector,
        create_calibrator,
        save_tensors_data,
    )

    calibrator: Any = create_calibrator(
        model,
        op_types,
        augmented_model_path=str(target.with_suffix(".augmented.onnx")),
        calibrate_method=CalibrationMethod[method],
        extra_options={"percentile": percentile} if method == "Percentile" else {},
    )
    collector = HistogramCollector(
        method=calibrator.method,
        symmetric=calibrator.symmetric,
        num_bins=calibrator.num_bins,
        num_quantized_bins=calibrator.num_quantized_bins,
        percentile=calibrator.percentile,
        scenario=calibrator.scenario,
    )
    magnitudes = calibrator.method == "percentile" and calibrator.symmetric
    collector.histogram_dict = collect(calibrator, feeds, magnitudes)
    calibrator.collector = collector
    save_tensors_data(calibrator.compute_data(), target)
