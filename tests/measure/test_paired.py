"""Paired blocks: order, speedup, foreign load."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqbench.core.errors import PqbenchError
from pqbench.core.record import json_schema
from pqbench.machine.foreign_load import CpuSample, ForeignLoad
from pqbench.measure.blocks import BatchResult, save_blocks
from pqbench.measure.intervals import ratio_interval
from pqbench.measure.latency import Block
from pqbench.measure.paired import calls_of_a_block, candidate_first, judge, measure, take
from pqbench.measure.protocol import MeasureProtocol
from pqbench.measure.side import Side


class World:
    """A simulated machine: a clock, and a neighbour that comes and goes."""

    def __init__(self, on_s: float = 0.0, off_s: float = 1.0, slow: float = 10.0) -> None:
        self.now = 0.0
        self.on_s, self.off_s, self.slow = on_s, off_s, slow
        self.foreign_s = 0.0
        self.log: list[str] = []

    def busy(self, at: float) -> bool:
        return self.on_s > 0 and at % (self.on_s + self.off_s) >= self.off_s

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end - 1e-12:
            step = min(0.005, end - self.now)
            self.foreign_s += step * self.busy(self.now)
            self.now += step


class FakeSide(Side):
    def __init__(self, world: World, name: str, call_s: float, seed: int, compiled: int = 0):
        self.world, self.name, self.call_s = world, name, call_s
        self.rng = np.random.default_rng(seed)
        self.compiled = compiled

    def block(
        self, batch_size: int, seconds: float, min_calls: int, max_calls: int, lead_s: float = 0.0
    ) -> Block:
        self.world.log.append(self.name)
        begin, ns = self.world.now, []
        while len(ns) < min_calls or self.world.now - begin < seconds:
            factor = self.world.slow if self.world.busy(self.world.now) else 1.0
            took = self.call_s * factor * math.exp(self.rng.normal(0, 0.01))
            self.world.pass_time(took)
            ns.append(int(took * 1e9))
        wall = self.world.now - begin
        return Block(np.array(ns, np.int64), wall, wall, self.compiled)


def load_of(world: World, known: bool = True) -> ForeignLoad:
    """What others take of the simulated machine's two CPUs; ``known``: whether it can be told."""

    def sample() -> CpuSample | None:
        now, foreign = world.now, world.foreign_s
        return CpuSample(now, 2 * now - foreign, 0.0, 0.0, 2) if known else None

    return ForeignLoad(reader=sample)


def run(
    world: World, protocol: MeasureProtocol, call_s: float = 0.01, known: bool = True
) -> BatchResult:
    (result,) = measure(
        FakeSide(world, "candidate", call_s, 1),
        FakeSide(world, "baseline", 2 * call_s, 2),
        replace(protocol, batch_sizes=[1]),
        load_of(world, known),
        sleep=world.pass_time,
    )
    return result


def test_measure_finds_the_speedup_and_stops_when_sure() -> None:
    world = World()
    result = run(world, MeasureProtocol(max_seconds=100))
    speedup = result.speedup
    assert speedup is not None
    assert speedup.low <= 2.0 <= speedup.high
    assert speedup.ratio == pytest.approx(2.0, rel=0.02)
    assert not speedup.disturbed
    assert result.latency.stable
    assert speedup.disturbed_blocks == 0
    assert world.now < 20  # sure long before the time is up


def test_measure_takes_turns_in_balanced_order() -> None:
    world = World()
    run(world, MeasureProtocol(min_pairs=32, max_pairs=32))
    warm = len(world.log) - 64
    first = [world.log[i] for i in range(warm, len(world.log), 2)]
    second = [world.log[i] for i in range(warm + 1, len(world.log), 2)]
    assert all(a != b for a, b in zip(first, second, strict=True))
    for i in range(0, 32, 4):  # ABBA, or its mirror image
        assert first[i] == first[i + 3] != first[i + 1] == first[i + 2]


def test_candidate_first_differs_between_experiments_and_alternates_between_starts() -> None:
    drawn = [candidate_first(0, f"experiment {i}", 1, 0) for i in range(200)]
    assert 70 < sum(drawn) < 130
    for key in ("a", "b"):
        starts = [candidate_first(0, key, 16, process) for process in range(4)]
        assert starts[0] == starts[2] != starts[1] == starts[3]
    assert drawn == [candidate_first(0, f"experiment {i}", 1, 0) for i in range(200)]


def test_measure_repeats_a_disturbed_pair_in_the_same_order() -> None:
    world = World(on_s=1.2, off_s=0.4)
    result = run(
        world, MeasureProtocol(max_seconds=12, max_disturbed=50, min_pairs=8, quiet_wait_s=0)
    )
    quiet = [t for t in result.blocks if not t.disturbed]
    assert any(t.disturbed for t in result.blocks)
    by_pair: dict[int, list[str]] = {}
    for block in quiet:
        by_pair.setdefault(block.pair, []).append(block.side)
    begins = [sides[0] for sides in by_pair.values() if len(sides) == 2]
    counts = [begins.count(side) for side in ("candidate", "baseline")]
    assert abs(counts[0] - counts[1]) <= 1


def test_calls_of_a_block_are_three_unless_they_take_too_long() -> None:
    assert calls_of_a_block(0.001, 0.1) == 3
    assert calls_of_a_block(0.12, 0.1) == 3
    assert calls_of_a_block(0.19, 0.1) == 2
    assert calls_of_a_block(5.0, 0.1) == 1


class Spinner(FakeSide):
    """A side whose threads spin for a while after its last call."""

    spin_s = 0.012

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.last = -1.0

    def block(self, *arguments: object, **options: object) -> Block:
        made = super().block(*arguments, **options)  # type: ignore[arg-type]
        self.last = self.world.now
        return made

    def cpu_s(self) -> float:
        return self.last + min(max(self.world.now - self.last, 0.0), self.spin_s)


def test_measure_waits_only_while_the_other_side_spins() -> None:
    waits = {}
    for spin_s in (0.0, 0.012):
        world, slept = World(), []

        def sleep(seconds: float, world: World = world, slept: list[float] = slept) -> None:
            slept.append(seconds)
            world.pass_time(seconds)

        sides = [Spinner(world, name, 0.01, i) for i, name in enumerate(("candidate", "baseline"))]
        for side in sides:
            side.spin_s = spin_s
        measure(
            sides[0],
            sides[1],
            MeasureProtocol(batch_sizes=[1], min_pairs=6, max_pairs=6, settle_s=0.05),
            load_of(world),
            sleep=sleep,
        )
        waits[spin_s] = sum(slept) / 12
    assert waits[0.0] <= 0.0021
    assert 0.01 <= waits[0.012] <= 0.02  # as long as it spins, not the whole of settle_s


def test_measure_sets_disturbed_blocks_aside_and_counts_them() -> None:
    result = run(World(on_s=3, off_s=3), MeasureProtocol(max_seconds=12, max_disturbed=50))
    assert result.speedup is not None
    assert result.speedup.disturbed_blocks > 0
    assert result.speedup.disturbed_blocks == sum(t.disturbed for t in result.blocks)
    assert not result.speedup.disturbed
    assert result.speedup.ratio == pytest.approx(2.0, rel=0.1)
    assert result.latency.p50_ms == pytest.approx(10, rel=0.05)


def test_measure_in_turns_survives_a_neighbour_that_one_after_the_other_does_not() -> None:
    world = World(on_s=8, off_s=4)
    ratio = run(world, MeasureProtocol(max_seconds=12, max_disturbed=50)).speedup
    assert ratio is not None
    assert ratio.disturbed or abs(ratio.ratio / 2 - 1) < 0.1
    world = World(on_s=8, off_s=4)
    protocol = MeasureProtocol(
        max_seconds=3.6, min_pairs=10, target_half_width=1e-9, batch_sizes=[1]
    )
    base, cand = (
        measure(
            FakeSide(world, name, call_s, 3),
            None,
            protocol,
            load_of(world, known=False),
            sleep=world.pass_time,
        )[0].latency.p50_ms
        for name, call_s in (("baseline", 0.02), ("candidate", 0.01))
    )
    assert abs(base / cand / 2 - 1) > 0.5


def test_measure_says_disturbed_when_it_never_gets_quiet() -> None:
    world = World(on_s=1e9, off_s=0.0)
    result = run(world, MeasureProtocol(max_seconds=5, quiet_wait_s=2))
    assert result.speedup is not None
    assert result.speedup.disturbed
    assert not result.latency.stable
    assert "50% of the CPU" in result.latency.unstable_reason
    assert world.now < 60


def test_measure_without_a_baseline_gives_no_speedup() -> None:
    world = World()
    results = measure(
        FakeSide(world, "candidate", 0.01, 1),
        None,
        MeasureProtocol(batch_sizes=(4, 1)),
        load_of(world),
        sleep=world.pass_time,
    )
    assert [r.latency.batch_size for r in results] == [1, 4]
    assert all(r.speedup is None for r in results)


def test_measure_where_the_load_is_unknown_counts_all_blocks() -> None:
    result = run(World(), MeasureProtocol(max_seconds=5), known=False)
    assert result.speedup is not None
    assert result.speedup.disturbed_blocks == 0
    assert all(block.foreign is None for block in result.blocks)


def test_measure_of_a_slow_model_keeps_its_time() -> None:
    # 64 images at 1 s a call, quick protocol: one warm-up call and three pairs, no more.
    world = World()
    protocol = MeasureProtocol(
        warmup_s=0.2, warmup_calls=1, min_pairs=3, max_seconds=4, target_half_width=0.05
    )
    result = run(world, protocol, call_s=0.5)
    assert result.speedup is not None
    assert result.speedup.pairs >= 3
    assert world.now < 10


def test_measure_refuses_compilation_in_the_timed_loop() -> None:
    world = World()
    with pytest.raises(PqbenchError, match="compiled inside the timed loop at batch size 1"):
        measure(
            FakeSide(world, "candidate", 0.01, 1, compiled=2),
            None,
            MeasureProtocol(),
            load_of(world),
            sleep=world.pass_time,
        )


def starts(slow: list[float], protocol: MeasureProtocol) -> BatchResult:
    """Starts of a candidate that differ for their whole life, as real processes do."""
    world = World()
    taken = [
        take(
            FakeSide(world, "candidate", 0.01 * factor, 2 * i),
            FakeSide(world, "baseline", 0.02, 2 * i + 1),
            protocol.part(),
            load_of(world),
            sleep=world.pass_time,
            process=i,
        )
        for i, factor in enumerate(slow)
    ]
    (result,) = judge(taken, protocol)
    return result


def test_judge_of_several_starts_covers_what_one_start_cannot_see() -> None:
    protocol = MeasureProtocol(batch_sizes=[1], processes=4, max_seconds=8)
    alone = starts([1.0], replace(protocol, processes=1, max_seconds=2))
    assert alone.latency.processes == 1
    assert alone.latency.stable and alone.latency.p50_high_ms < 10.3  # sure of this start
    several = starts([1.0, 1.15, 0.95, 1.1], protocol)
    assert several.latency.processes == 4
    assert several.latency.p50_low_ms < 9.5 and several.latency.p50_high_ms > 11.5
    assert not several.latency.stable and "median is known to" in several.latency.unstable_reason
    assert several.speedup is not None
    assert several.speedup.low < 2 / 1.15 and several.speedup.high > 2 / 0.95


def test_judge_of_equal_starts_stays_narrow() -> None:
    protocol = MeasureProtocol(batch_sizes=[1], processes=4, max_seconds=8)
    result = starts([1.0] * 4, protocol)
    assert result.latency.stable
    assert result.latency.blocks >= protocol.min_pairs
    assert {block.process for block in result.blocks} == {0, 1, 2, 3}


@given(st.integers(1, 9), st.integers(1, 30), st.floats(0.5, 100))
def test_protocol_parts_add_up_to_the_whole(processes: int, least: int, seconds: float) -> None:
    whole = MeasureProtocol(processes=processes, min_pairs=least, max_seconds=seconds)
    part = whole.part()
    assert part.min_pairs * processes >= least
    assert part.max_pairs * processes >= whole.max_pairs
    assert part.max_seconds * processes == pytest.approx(seconds)


@given(st.lists(st.floats(0.05, 50), min_size=2, max_size=40))
@settings(deadline=None)
def test_ratio_interval_holds_its_estimate_and_turns_with_the_ratio(ratios: list[float]) -> None:
    estimate, low, high = ratio_interval(ratios)
    assert estimate == pytest.approx(np.median(ratios))
    assert low <= estimate <= high
    if len(ratios) % 2:  # the median of an even number is not exactly the reciprocal's
        turned = ratio_interval([1 / ratio for ratio in ratios])
        assert turned == pytest.approx((1 / estimate, 1 / high, 1 / low))


@pytest.mark.parametrize("pairs", [3, 6, 9, 20])
def test_ratio_interval_covers_the_truth(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    covered = []
    for _ in range(400):
        _, low, high = ratio_interval(2 * np.exp(0.05 * rng.standard_t(4, pairs)))
        covered.append(low <= 2 <= high)
    assert np.mean(covered) > 0.92


@pytest.mark.parametrize("starts", [2, 3, 5])
def test_ratio_interval_covers_what_differs_from_start_to_start(starts: int) -> None:
    rng = np.random.default_rng(starts)
    processes = np.repeat(np.arange(starts), 6)
    covered, within = [], []
    for _ in range(400):
        level = np.repeat(rng.normal(0, 0.015, starts), 6)
        ratios = 2 * np.exp(level + 0.01 * rng.standard_t(4, len(level)))
        _, low, high = ratio_interval(ratios, processes)
        covered.append(low <= 2 <= high)
        _, low, high = ratio_interval(ratios[:6])
        within.append(low <= 2 <= high)
    assert 0.92 < np.mean(covered) < 0.98
    assert np.mean(within) < 0.85  # of one start: what it does not say


def test_speedup_fits_the_published_schema() -> None:
    result = run(World(), MeasureProtocol(min_pairs=3, max_pairs=3))
    assert result.speedup is not None
    schema = json_schema()["properties"]["speedup"]["items"]
    jsonschema.validate(dataclasses.asdict(result.speedup), schema)


def test_save_blocks_keeps_every_call_and_the_blocks_set_aside(tmp_path: Path) -> None:
    protocol = MeasureProtocol(min_pairs=16, max_seconds=8, max_disturbed=50)
    result = run(World(on_s=3, off_s=3), protocol)
    save_blocks([result], tmp_path / "latency.parquet")
    table = pd.read_parquet(tmp_path / "latency.parquet")
    assert len(table) == sum(len(block.times.ns) for block in result.blocks)
    assert set(table["side"]) == {"candidate", "baseline"}
    quiet = table[(table["side"] == "candidate") & ~table["disturbed"]]
    bad_pairs = set(table.loc[table["disturbed"], "pair"])
    counted = quiet[~quiet["pair"].isin(bad_pairs)]
    assert counted["ns"].median() / 1e6 == pytest.approx(result.latency.p50_ms)
    assert len(counted) == result.latency.n
