"""The timed loop and the statistics of its samples."""

from __future__ import annotations

import dataclasses
import gc
import math

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pqbench.core.record import json_schema
from pqbench.measure.intervals import (
    correlation_factor,
    median_interval,
    p50_interval,
)
from pqbench.measure.latency import drift, summary, time_calls

BLOCKS = st.lists(
    st.lists(st.integers(1_000, 10**9), min_size=1, max_size=40), min_size=1, max_size=20
)


def arrays(blocks: list[list[int]]) -> list[np.ndarray]:
    return [np.array(block, np.int64) for block in blocks]


@given(st.lists(st.floats(0.01, 1e4), min_size=9, max_size=60, unique=True))
@settings(deadline=None)
def test_median_interval_of_many_lies_between_two_sign_tests(values: list[float]) -> None:
    # It holds every median that the sign test keeps at 5 % only just, and none that it rejects.
    low, high = median_interval(values)
    data = np.sort(values)
    n = len(data)
    held = [1 - 2 * stats.binom.cdf(d - 1, n, 0.5) for d in range(1, n // 2 + 1)]
    d = sum(h >= 0.95 for h in held)
    slack = 1 + 1e-9
    assert data[d - 1] / slack <= low <= data[d] * slack
    assert data[n - 1 - d] / slack <= high <= data[n - d] * slack


@pytest.mark.parametrize("count", [9, 11, 12, 25])
def test_median_interval_of_many_covers_at_its_level(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = []
    for _ in range(1500):
        low, high = median_interval(1 + rng.exponential(1, count))
        covered.append(low <= 1 + math.log(2) <= high)
    assert 0.935 < np.mean(covered) < 0.97  # the sign test alone: up to 0.99


@given(st.lists(st.floats(0.01, 1e4), min_size=2, max_size=8))
@settings(deadline=None)
def test_median_interval_of_few_is_students_t_on_logarithms(values: list[float]) -> None:
    low, high = median_interval(values)
    logs = np.log(values)
    if np.ptp(logs) < 1e-9:
        assert low == pytest.approx(high)
        return
    expected = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs))
    assert math.log(low) == pytest.approx(expected[0], rel=1e-3, abs=1e-3)
    assert math.log(high) == pytest.approx(min(expected[1], 700), rel=1e-3, abs=1e-3)


def test_median_interval_of_one_is_unbounded() -> None:
    assert median_interval([3.0]) == (0.0, math.inf)


@pytest.mark.parametrize(("blocks", "correlation"), [(4, 0.0), (12, 0.0), (30, 0.5), (60, 0.8)])
def test_p50_interval_covers_the_truth_under_autocorrelation(
    blocks: int, correlation: float
) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        level, series = rng.normal(), []
        for _ in range(blocks):
            calls = np.exp(0.03 * level) * (1 + rng.exponential(0.02, 30))
            series.append((1e6 * calls).astype(np.int64))
            level = correlation * level + math.sqrt(1 - correlation**2) * rng.normal()
        _, low, high = p50_interval(series)
        covered.append(low <= 1 + 0.02 * math.log(2) <= high)
    assert np.mean(covered) > (0.92 if correlation == 0 else 0.84)


def test_interval_over_calls_would_be_too_narrow() -> None:
    # The reason for blocks: calls of a block move together. Ignoring that covers far too rarely.
    rng = np.random.default_rng(1)
    naive, ours = [], []
    for _ in range(200):
        series = [
            (1e6 * np.exp(0.05 * rng.normal()) * (1 + rng.normal(0, 0.01, 100))).astype(np.int64)
            for _ in range(12)
        ]
        low, high = median_interval(np.concatenate(series) / 1e6)
        naive.append(low <= 1 <= high)
        _, low, high = p50_interval(series)
        ours.append(low <= 1 <= high)
    assert np.mean(naive) < 0.6
    assert np.mean(ours) > 0.92


def test_correlation_factor_is_near_one_for_independent_and_large_for_correlated() -> None:
    rng = np.random.default_rng(2)
    independent = [correlation_factor(rng.normal(size=60)) for _ in range(50)]
    walks = [correlation_factor(np.cumsum(rng.normal(size=60))) for _ in range(50)]
    assert np.mean(independent) < 1.2
    assert np.mean(walks) > 2.5
    assert correlation_factor(np.ones(5)) == 1.0


@given(BLOCKS, st.integers(1, 64))
@settings(deadline=None)
def test_summary_agrees_with_numpy_and_orders_its_figures(
    blocks: list[list[int]], batch_size: int
) -> None:
    result = summary(arrays(blocks), batch_size)
    samples = np.concatenate(arrays(blocks)) / 1e6
    assert result.n == len(samples)
    assert result.blocks == len(blocks)
    assert result.p50_ms == pytest.approx(np.median(samples))
    assert result.mean_ms == pytest.approx(samples.mean())
    assert result.min_ms == pytest.approx(samples.min())
    if len(samples) > 1:
        assert result.std_ms == pytest.approx(samples.std(ddof=1))
    assert result.p50_low_ms <= result.p50_ms <= result.p50_high_ms < math.inf
    assert result.ms_per_sample == pytest.approx(result.p50_ms / batch_size)
    assert result.throughput_per_s * result.mean_ms == pytest.approx(1000 * batch_size)
    assert result.stable == (not result.unstable_reason)


@given(st.integers(1, 63), st.integers(130, 661), st.integers(662, 900))
@settings(max_examples=20, deadline=None)
def test_summary_gives_tails_only_with_enough_calls(few: int, some: int, many: int) -> None:
    def of(count: int) -> tuple[bool, bool, bool]:
        result = summary([np.arange(1, count + 1)] * 1, 1)
        return result.p90_ms is None, result.p95_ms is None, result.p99_ms is None

    assert of(few) == (True, True, True)
    assert of(64 + few) == (False, True, True)
    assert of(some) == (False, False, True)
    assert of(many) == (False, False, False)


def test_summary_fits_the_published_schema() -> None:
    rng = np.random.default_rng(0)
    result = summary([rng.integers(900, 1100, 70) for _ in range(12)], 4)
    schema = json_schema()["properties"]["latency"]["items"]
    jsonschema.validate(dataclasses.asdict(result), schema)


def test_summary_of_steady_blocks_is_stable() -> None:
    rng = np.random.default_rng(0)
    result = summary([rng.integers(990_000, 1_010_000, 50) for _ in range(12)], 1)
    assert result.stable
    assert result.unstable_reason == ""


def test_summary_names_drift() -> None:
    result = summary([np.full(10, 1_000_000 + 30_000 * i) for i in range(12)], 1)
    assert not result.stable
    assert "drifts" in result.unstable_reason


def test_summary_names_a_wide_interval() -> None:
    result = summary([np.full(5, v) for v in 3 * (1_000_000, 2_000_000, 900_000)], 1)
    assert not result.stable
    assert "known to" in result.unstable_reason


def test_summary_of_a_single_block_spans_all_calls_and_is_unstable() -> None:
    result = summary([np.array([1_000_000, 2_000_000, 3_000_000])], 1)
    assert (result.p50_low_ms, result.p50_high_ms) == (1.0, 3.0)
    assert "single block" in result.unstable_reason


def test_drift_is_unknown_for_few_calls() -> None:
    assert drift(np.arange(1, 6)) is None
    assert drift(np.array([1, 1, 1, 1, 2, 2])) == pytest.approx(1.0)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.collecting: list[bool] = []

    def __call__(self, batch: dict[str, np.ndarray]) -> None:
        self.seen.append(int(batch["input"][0]))
        self.collecting.append(gc.isenabled())


def test_time_calls_rotates_inputs_with_the_collector_off() -> None:
    run = Recorder()
    batches = [{"input": np.array([i])} for i in range(3)]
    block = time_calls(run, batches, seconds=0, min_calls=5, max_calls=100, first=7)
    assert run.seen == [1, 2, 0, 1, 2]
    assert not any(run.collecting)
    assert gc.isenabled()
    assert len(block.ns) == 5
    assert (block.ns > 0).all()


def test_time_calls_stops_at_the_most_calls_and_leads_in_untimed() -> None:
    run = Recorder()
    batches = [{"input": np.array([0])}]
    block = time_calls(run, batches, seconds=60, min_calls=1, max_calls=4, lead_s=0.001)
    assert len(block.ns) == 4
    assert len(run.seen) > 4


def test_time_calls_puts_the_collector_back_after_a_failure() -> None:
    def fail(batch: object) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        time_calls(fail, [{"input": np.array([0])}], 1, 1, 10)
    assert gc.isenabled()


def test_correlation_factor_of_equal_values_is_one() -> None:
    assert correlation_factor([3.0] * 12) == 1.0
    assert correlation_factor([1.0, 2.0] * 8) == 1.0  # they alternate: no widening
