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
    mean_share,
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


def test_tail_is_conservative_and_covers() -> None:
    rng = np.random.default_rng(0)
    truth = -math.log(0.05)
    above, covered = [], []
    for _ in range(600):
        found = tail(rng.exponential(1, 400), 0.95, np.repeat(np.arange(10), 40))
        assert found is not None
        above.append(found.value >= truth)
        if found.low is not None and found.high is not None:
            covered.append(found.low <= truth <= found.high)
            assert found.low <= found.value <= found.high
    assert np.mean(above) > 0.98
    assert np.mean(covered) > 0.94
    assert len(covered) > 500


def test_tail_of_calls_that_come_in_bursts_is_wider() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 60)
    slow = np.where(groups % 6 == 0, 5.0, 1.0)  # a neighbour for two blocks
    steady, burst = (
        tail(calls, 0.9, groups)
        for calls in (rng.exponential(1, 720), slow * rng.exponential(1, 720))
    )
    assert steady is not None
    assert burst is not None
    assert steady.high is not None
    assert burst.high is None or burst.high / burst.value > steady.high / steady.value


def test_tail_needs_calls() -> None:
    assert tail(np.ones(129), 0.95, np.zeros(129, int)) is None
    alone = tail(np.arange(130), 0.95, np.zeros(130, int))
    assert alone is not None
    assert (alone.value, alone.low) == (129, None)  # the highest; one block has no interval


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
    held, failed = boundary_error(300, gained, 0.01, 0.05)
    assert held <= 0.05  # the score test alone: 0.067 where nothing is gained
    assert failed <= 0.065


@given(st.integers(0, 30), st.integers(0, 30), st.integers(60, 2000))
@settings(deadline=None, max_examples=60)
def test_drop_upper_is_where_the_p_value_crosses(lost: int, gained: int, count: int) -> None:
    upper = drop_upper(lost, gained, count, 0.975)
    assert (lost - gained) / count <= upper <= 1
    assert drop_p_at_least(lost, gained, count, upper + 1e-6) <= 0.0251
    assert upper >= paired_difference(lost, gained, count)[1] - 1e-6  # never bolder than Tango's


def test_mean_share_covers_with_rare_classes() -> None:
    rng = np.random.default_rng(3)
    counts, rates = np.array([300, 40, 6]), np.array([0.97, 0.8, 0.6])
    covered = []
    for _ in range(1000):
        _, low, high = mean_share(rng.binomial(counts, rates), counts)
        covered.append(low <= rates.mean() <= high)
    assert 0.93 < np.mean(covered) < 0.985
