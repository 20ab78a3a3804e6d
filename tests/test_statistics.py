"""Student's t over starts, order statistics of tails, and tests of shares near 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pqbench.core.proportions import (
    drop_p_at_least,
    drop_p_at_most,
    drop_upper,
    paired_difference,
)
from pqbench.core.statistics import Normal, holm, mean_of, tail, tail_calls

FINITE = st.floats(-5, 5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@given(st.lists(FINITE, min_size=2, max_size=12, unique_by=lambda x: round(x, 3)), FINITE)
@settings(deadline=None)
def test_mean_of_agrees_with_scipys_t_test(values: list[float], null: float) -> None:
    mean = mean_of(values)
    assert mean is not None
    reference = stats.ttest_1samp(values, null)
    assert mean.p_equal(null) == pytest.approx(reference.pvalue, abs=1e-9)
    assert mean.interval() == pytest.approx(tuple(reference.confidence_interval(0.95)))
    greater = stats.ttest_1samp(values, null, alternative="greater").pvalue
    assert mean.p_at_most(null) == pytest.approx(greater, abs=1e-9)


def test_mean_of_one_start_tells_nothing() -> None:
    assert mean_of([0.3]) is None


def test_minus_is_welchs_test() -> None:
    first, second = [0.1, 0.12, 0.15, 0.11], [0.3, 0.22, 0.41]
    a, b = mean_of(first), mean_of(second)
    assert a is not None
    assert b is not None
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert a.minus(b).p_equal() == pytest.approx(expected)


def test_bounds_and_p_values_agree() -> None:
    mean = Normal(0.2, 0.05, 4)
    assert mean.p_at_most(mean.lower(0.99)) == pytest.approx(0.01)
    assert mean.p_at_least(mean.upper(0.99)) == pytest.approx(0.01)


def test_tail_calls_are_loadgens() -> None:
    assert [tail_calls(share) for share in (0.9, 0.95, 0.99)] == [64, 130, 662]


def test_tail_is_conservative_and_its_interval_covers_a_typical_start() -> None:
    rng = np.random.default_rng(0)
    truth = -math.log(0.05)
    above, covered = [], []
    for _ in range(600):
        starts = np.repeat(np.exp(rng.normal(0, 0.05, 5)), 120)
        found = tail(starts * rng.exponential(1, 600), 0.95, np.repeat(np.arange(5), 120))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high
        above.append(found.value >= truth)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(above) > 0.98
    assert 0.93 < np.mean(covered) < 0.985


def test_tail_needs_calls_and_groups() -> None:
    assert tail(np.ones(129), 0.95, np.zeros(129, int)) is None
    alone = tail(np.arange(130.0) + 1, 0.95, np.zeros(130, int))
    assert alone is not None
    assert (alone.value, alone.low) == (130, None)  # the highest; one start has no interval
    thin = tail(np.arange(130.0) + 1, 0.95, np.arange(130) % 5)
    assert thin is not None
    assert thin.low is None  # 26 calls of a start do not tell its 95th percentile


def boundary_error(count: int, gained: float, margin: float, alpha: float) -> tuple[float, float]:
    """How often each side is claimed wrongly where the true drop is the margin, exactly."""
    low = high = 0.0
    for lost in range(count + 1):
        chance = stats.binom.pmf(lost, count, margin + gained)
        if chance < 1e-8:
            continue
        for won in range(count - lost + 1):
            both = chance * stats.binom.pmf(won, count - lost, gained / (1 - margin - gained))
            if both < 1e-9:
                break
            low += both * (drop_p_at_least(lost, won, count, margin) < alpha)
            high += both * (drop_p_at_most(lost, won, count, margin) < alpha)
    return low, high


@pytest.mark.parametrize("gained", [0.0, 0.002, 0.02])
def test_drop_tests_keep_their_size_where_models_hardly_differ(gained: float) -> None:
    held, failed = boundary_error(280, gained, 0.01, 0.05)
    assert held <= 0.055  # the score test alone: 0.06 where nothing is gained
    assert failed <= 0.065


@given(st.integers(0, 30), st.integers(0, 30), st.integers(60, 2000))
@settings(deadline=None, max_examples=60)
def test_drop_upper_is_where_the_p_value_crosses(lost: int, gained: int, count: int) -> None:
    upper = drop_upper(lost, gained, count, 0.975)
    assert (lost - gained) / count <= upper <= 1
    assert drop_p_at_least(lost, gained, count, upper + 1e-6) <= 0.0251
    assert upper >= paired_difference(lost, gained, count)[1] - 1e-6  # never bolder than Tango's
