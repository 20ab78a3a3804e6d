"""Every interval that pqbench prints covers; a report without effects claims none."""

from __future__ import annotations

import coverage
import numpy as np
from covered import covered


def test_every_interval_covers_in_the_small_form() -> None:
    found = list(coverage.lines(repeats=100, seed=0, small=True))
    assert {line.what for line in found} == {
        "speedup",
        "latency p50",
        "latency p90",
        "latency p95",
        "accuracy, recall",
        "drop",
        "balanced accuracy",
        "macro f1",
        "calibration error",
        "energy",
        "mIoU",
        "mIoU drop",
        "family-wise error",
        "wrong claims",
    }
    outside = [line for line in found if not line.good]
    assert not outside


def test_a_line_outside_is_told() -> None:
    rng = np.random.default_rng(0)

    def narrow() -> tuple[float, float]:  # a normal interval of 90 %
        centre = rng.normal()
        return centre - 1.2, centre + 1.2

    line = covered("narrow", "", 0.0, narrow, 500)
    assert line is not None
    assert not line.good
