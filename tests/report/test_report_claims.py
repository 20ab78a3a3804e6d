"""Claims hold, fail or stay open; all of a sweep together; what is open says what it lacks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import make_failed, make_record

from pqbench.core.errors import ConfigError
from pqbench.core.record import AgainstBaseline, Faithfulness, Record
from pqbench.report.claims import Cell, Judged, Kind, Margins, Verdict, judge

DEFAULT = Margins()


def record(
    lost: int = 0,
    gained: int = 0,
    count: int = 2000,
    starts: Sequence[float] = (1.49, 1.5, 1.51, 1.5, 1.5),
    name: str = "quick",
) -> Record:
    made = make_record(recipe=(name,), batches=(1,))
    assert made.accuracy is not None
    made.accuracy.count = count
    made.accuracy.against_baseline = AgainstBaseline(
        100 * (lost - gained) / count, 0, 0, None, 0.9, lost=lost, gained=gained
    )
    made.speedup[0].ratio = math.exp(float(np.mean(np.log(starts))))
    made.speedup[0].start_ratios = list(starts)
    return made


def one(made: Record, margins: Margins = DEFAULT) -> Cell:
    (cell,) = judge([make_record(batches=(1,)), made, make_failed()], margins)
    return cell


def verdicts(cell: Cell) -> list[Verdict]:
    return [judged.verdict for judged in cell.claims]


def test_an_equal_and_faster_model_is_an_answer() -> None:
    cell = one(record(lost=3, gained=3))
    assert verdicts(cell) == [Verdict.HOLDS, Verdict.HOLDS]
    assert cell.answerable
    drop, speedup = cell.claims
    assert drop.bound is not None
    assert speedup.bound is not None
    assert 0 < drop.bound < 1
    assert 1.45 < speedup.bound < 1.5
    assert str(drop.claim) == "at most 1 points lost"
    assert str(speedup.claim) == "at least 1 times as fast at batch 1"


def test_a_worse_or_slower_model_fails() -> None:
    cell = one(record(lost=100, gained=10, starts=(0.8, 0.81, 0.79, 0.8, 0.8)))
    assert verdicts(cell) == [Verdict.FAILS, Verdict.FAILS]
    assert not cell.answerable


def test_few_images_leave_it_open_and_say_how_many_more() -> None:
    cell = one(record(lost=2, gained=2, count=320))
    drop = cell.claims[0]
    assert drop.verdict is Verdict.UNDECIDED
    assert drop.more is not None
    assert drop.more > 300
    assert drop.needs.startswith("about ")
    assert drop.needs.endswith(" more images")
    # With so many, and the same shares, it holds.
    factor = (320 + drop.more) / 320
    count = math.ceil(320 * factor)
    again = one(record(lost=round(2 * factor), gained=round(2 * factor), count=count))
    assert again.claims[0].verdict is Verdict.HOLDS


def test_few_starts_leave_it_open_and_say_how_many_more() -> None:
    cell = one(record(starts=(1.02, 1.05, 1.01)))
    speedup = cell.claims[1]
    assert speedup.verdict is Verdict.UNDECIDED
    assert speedup.more is not None
    assert 1 <= speedup.more <= 6
    assert speedup.needs in (f"{speedup.more} more starts", "1 more start")
    alone = one(record(starts=(3.0,))).claims[1]
    assert (alone.verdict, alone.needs) == (Verdict.UNDECIDED, "at least 2 more starts")
    assert alone.p is None


def test_a_record_without_paired_counts_decides_nothing() -> None:
    old = make_record(recipe=("old",), batches=(1,))
    old.speedup[0].start_ratios = []
    assert verdicts(one(old)) == [Verdict.UNDECIDED] * 2
    assert "measure it again" in one(old).claims[0].needs


def test_disturbed_figures_decide_nothing() -> None:
    made = record()
    made.speedup[0].disturbed = True
    assert one(made).claims[1].verdict is Verdict.UNDECIDED


def test_a_model_with_faults_is_never_an_answer() -> None:
    made = record()
    assert made.accuracy is not None
    made.accuracy.faithfulness = Faithfulness(
        "a", 0.99, "a", 0.7, 0.5, faults=["answers one class"]
    )
    cell = one(made)
    assert verdicts(cell) == [Verdict.HOLDS, Verdict.HOLDS]
    assert cell.faults == ("answers one class",)
    assert not cell.answerable


def test_all_claims_are_judged_together() -> None:
    edge = record(lost=8, gained=5, count=1000)
    assert one(edge).claims[0].verdict is Verdict.HOLDS
    others = [record(lost=30, gained=28, count=1000, name=f"o{i}") for i in range(20)]
    cell = judge([edge, *others])[0]
    assert cell.claims[0].verdict is Verdict.UNDECIDED


def test_claims_count_what_a_search_dropped_unmeasured() -> None:
    records = [make_record(batches=(1,)), record(lost=1, gained=2, count=700)]
    (alone,), (chosen,) = judge(records), judge(records, unseen=200)
    assert verdicts(alone)[0] is Verdict.HOLDS
    assert verdicts(chosen)[0] is Verdict.UNDECIDED
    assert chosen.claims[0].p == pytest.approx(201 * (alone.claims[0].p or 0), rel=0.02)


def test_segmentation_is_judged_by_its_error() -> None:
    made = record()
    assert made.accuracy is not None
    made.accuracy.against_baseline = AgainstBaseline(
        0.1, -0.1, 0.3, None, 0.99, "miou", error_pt=0.1, dof=100.0
    )
    assert one(made).claims[0].verdict is Verdict.HOLDS


def test_speedups_of_the_batch_sizes_that_are_asked_for() -> None:
    made = make_record(recipe=("x",))
    (cell,) = judge([made], batch_sizes=[16])
    assert [judged.claim.batch_size for judged in cell.claims] == [None, 16]
    assert cell.claim(Kind.SPEEDUP) == cell.claims[1]
    assert cell.claim(Kind.SPEEDUP, 1) is None


@pytest.mark.parametrize("bad", [{"max_drop_pt": 0}, {"min_speedup": 0}, {"confidence": 1.0}])
def test_margins_outside_their_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"claim\."):
        Margins(**bad)


COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(100, 3000))
RATIOS = st.lists(st.floats(0.5, 3), min_size=2, max_size=6, unique=True)


def order(judged: Judged) -> int:
    return [Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS].index(judged.verdict)


@given(COUNTS, RATIOS, st.floats(0.1, 5), st.floats(0.6, 2))
@settings(deadline=None, max_examples=60)
def test_an_easier_question_is_never_answered_worse(
    counts: tuple[int, int, int], starts: list[float], drop: float, speedup: float
) -> None:
    made = record(*counts, starts)
    strict = one(made, Margins(drop, speedup)).claims
    easy = one(made, Margins(drop * 2, speedup / 2)).claims
    assert all(order(a) <= order(b) for a, b in zip(strict, easy, strict=True))


@given(COUNTS, RATIOS)
@settings(deadline=None, max_examples=60)
def test_verdict_bound_and_estimate_agree(
    counts: tuple[int, int, int], starts: list[float]
) -> None:
    drop, speedup = one(record(*counts, starts)).claims
    assert drop.bound is not None
    assert speedup.bound is not None
    assert drop.estimate is not None
    assert speedup.estimate is not None
    assert drop.bound >= drop.estimate - 1e-9
    assert speedup.bound <= speedup.estimate + 1e-9
    assert (drop.verdict is Verdict.HOLDS) <= (drop.bound <= 1)
    assert (speedup.verdict is Verdict.HOLDS) <= (speedup.bound >= 1)
    for judged in (drop, speedup):
        assert (judged.verdict is Verdict.UNDECIDED) == bool(judged.needs)


def test_claims_of_many_cells_are_wrong_in_at_most_five_of_a_hundred_sweeps() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        cells = []
        for i in range(12):  # every claim false, and as hard to tell as can be
            lost, gained, _rest = rng.multinomial(1000, [0.03, 0.02, 0.95])
            starts = np.exp(rng.normal(0, 0.015, 3))
            cells.append(record(int(lost), int(gained), 1000, starts, f"c{i}"))
        wrong += any(j.verdict is Verdict.HOLDS for cell in judge(cells) for j in cell.claims)
    assert wrong <= 0.05 * 300 + 6  # two standard errors of 300 draws
