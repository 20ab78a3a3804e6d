from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pqbench.core.errors import ParityError
from pqbench.core.parity import allowed_flips, check, compare, sqnr_db

LOGITS = arrays(np.float32, (6, 5), elements=st.floats(-100, 100, width=32))


def logits(samples: int = 64, classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((samples, classes)).astype(np.float32)


@given(LOGITS)
def test_compare_passes_equal_outputs(reference: np.ndarray) -> None:
    parity = compare("x", [reference], [reference.copy()], 150.0, 1.0)
    assert parity.passed
    assert parity.max_abs_diff == 0.0
    assert parity.sqnr_db == 200.0
    assert parity.top1_agreement == 1.0


@given(LOGITS.filter(lambda a: np.abs(a).max() > 1e-3), st.floats(-3, 3))
def test_sqnr_does_not_depend_on_scale(reference: np.ndarray, exponent: float) -> None:
    noisy = reference + np.float32(0.01) * logits(6, 5)
    factor = 10.0**exponent
    assert sqnr_db(reference * factor, noisy * factor) == pytest.approx(
        sqnr_db(reference.astype(np.float64), noisy.astype(np.float64)), abs=0.05
    )


@given(st.floats(0.5, 100))
@settings(max_examples=20)
def test_sqnr_is_20_log10_of_amplitude_ratio(decibels: float) -> None:
    reference = logits().astype(np.float64)
    got = reference * (1 + 10 ** (-decibels / 20))
    assert sqnr_db(reference, got) == pytest.approx(decibels, abs=1e-6)


@given(LOGITS, LOGITS)
def test_compare_gives_json_and_never_passes_without_reason(a: np.ndarray, b: np.ndarray) -> None:
    parity = compare("x", [a], [b], 40.0, 0.97)
    json.dumps(asdict(parity), allow_nan=False)
    assert parity.passed == (parity.problem == "")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_compare_refuses_values_that_are_not_finite(bad: float) -> None:
    broken = logits()
    broken[3, 3] = bad
    for pair in ((logits(), broken), (broken, logits()), (broken, broken)):
        parity = compare("x", [pair[0]], [pair[1]], -1000.0, 0.0)
        assert not parity.passed
        assert "not finite" in parity.problem
        assert parity.sqnr_db is None


def test_compare_refuses_other_shapes_and_lost_outputs() -> None:
    assert not compare("x", [logits()], [logits()[:, :5]], 0.0, 0.0).passed
    assert not compare("x", [logits(), logits()], [logits()], 0.0, 0.0).passed
    assert not compare("x", [], [], 0.0, 0.0).passed


def test_compare_refuses_constant_outputs_for_an_all_zero_reference() -> None:
    assert not compare("x", [np.zeros((4, 3))], [np.ones((4, 3))], 0.0, 0.0).passed


def test_compare_takes_the_worst_output() -> None:
    large, small = 1e6 * logits(), 1e-3 * logits(seed=1)
    parity = compare("x", [large, small], [large, -small], 40.0, 0.97)
    assert not parity.passed
    assert parity.sqnr_db == pytest.approx(-6.02, abs=0.01)


def test_compare_finds_an_error_that_a_large_constant_hides() -> None:
    reference = 100.0 + logits()
    got = 100.0 + logits(seed=1)
    assert compare("x", [reference], [got], 30.0, 0.0).passed
    parity = compare("x", [reference], [got], 30.0, 0.0, min_varying_sqnr_db=20.0)
    assert not parity.passed
    assert "depends on the input" in parity.problem


def test_compare_takes_rounding_for_rounding_where_outputs_hardly_vary() -> None:
    reference = 100.0 + 1e-5 * logits().astype(np.float64)
    got = reference + 1e-5 * logits(seed=1)
    assert compare("x", [reference], [got], 40.0, 0.0, min_varying_sqnr_db=20.0).passed


def test_compare_forgives_near_ties_that_flip() -> None:
    reference = np.tile(np.array([[1.0, 1.0 + 1e-6, 0.0]]), (16, 1))
    noise = 1e-6 * logits(16, 3)
    noise[:, 0] = 2e-6
    parity = compare("x", [reference], [reference + noise], 40.0, 0.97)
    assert parity.top1_agreement is not None and parity.top1_agreement < 0.5
    assert parity.clear_flips == 0
    assert parity.passed


def test_compare_counts_clear_flips_even_at_high_sqnr() -> None:
    reference = 100.0 + logits(64, 10)
    got = reference.copy()
    order = np.argsort(reference[:8], axis=1)
    for row, (worst, best) in enumerate(order[:, [0, -1]]):
        got[row, [worst, best]] = reference[row, [best, worst]]
    parity = compare("x", [reference], [got], 30.0, 0.97)
    assert parity.sqnr_db is not None and parity.sqnr_db > 30.0
    assert parity.clear_flips > 2
    assert not parity.passed
    assert "samples change" in parity.problem


@pytest.mark.parametrize(
    ("samples", "share", "quantized", "flips"),
    [(32, 0.97, False, 0), (32, 0.97, True, 3), (100, 0.97, False, 3), (100, 0.97, True, 6)],
)
def test_allowed_flips_are_those_of_chance_where_a_model_is_quantized(
    samples: int, share: float, quantized: bool, flips: int
) -> None:
    assert allowed_flips(samples, share, quantized) == flips


@given(st.integers(1, 300), st.floats(0.0, 1.0))
def test_allowed_flips_leave_by_chance_at_most_one_in_twenty_above(n: int, share: float) -> None:
    from scipy.stats import binom

    allowed = allowed_flips(n, share, quantized=True)
    assert 0 <= allowed <= n
    if 1e-9 < share < 1 - 1e-9:
        assert binom.sf(allowed, n, 1 - share) <= 0.05 + 1e-9
        assert allowed == 0 or binom.sf(allowed - 1, n, 1 - share) > 0.05 - 1e-9


def test_compare_lets_few_samples_of_a_quantized_model_jump() -> None:
    """Three samples of 32 whose answer changes clearly, all others without a difference."""
    reference = logits(32) + 10 * np.eye(10, dtype=np.float32)[np.arange(32) % 10]
    for flips, passed in ((3, True), (4, False)):
        got = reference.copy()
        got[:flips] = np.roll(got[:flips], 1, axis=1)
        assert compare("x", [reference], [got], 0.0, 0.97, quantized=True).passed == passed
        assert not compare("x", [reference], [got], 0.0, 0.97).passed


def test_compare_says_nothing_of_classes_where_there_are_none() -> None:
    values = np.arange(5.0)
    assert compare("x", [values], [values], 40.0, 0.97).top1_agreement is None


def test_check_raises_with_figures_and_likely_cause() -> None:
    parity = compare("torch to onnx", [logits()], [logits(seed=1)], 40.0, 0.97)
    with pytest.raises(ParityError) as caught:
        check(parity)
    text = str(caught.value)
    assert "torch to onnx" in text and "dB" in text and "64 samples" in text
    assert "order of the inputs" in caught.value.hint
