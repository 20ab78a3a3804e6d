import dataclasses

import numpy as np
import pytest
from record_factory import make_record
from scipy import stats

from pqbench.core.record import AgainstBaseline, Faithfulness
from pqbench.measure.intervals import ratio_interval
from pqbench.report.rows import Estimate, make_rows
from pqbench.report.significance import (
    BETTER,
    NOISE,
    TOO_FEW,
    UNTRUSTED,
    WORSE,
    beats_all,
    compare_with_baselines,
    ratio_p,
)
from pqbench.report.table import make_table


@pytest.mark.parametrize("starts", [2, 3, 5, 8])
def test_ratio_p_is_students_t_of_the_starts(starts):
    logs = np.random.default_rng(starts).normal(0.02, 0.02, starts)
    value, low, high = ratio_interval(np.exp(logs), range(starts))
    p = ratio_p(Estimate(value, low, high, starts - 1))
    assert p == pytest.approx(stats.ttest_1samp(logs, 0).pvalue, rel=1e-6)


def test_ratio_p_is_never_extrapolated_from_few_starts():
    # A normal tail would say 1e-300; three starts cannot be that sure.
    assert ratio_p(Estimate(2.0, 1.9, 2.1, dof=2)) == pytest.approx(2.8e-4, rel=0.1)


def test_ratio_p_of_an_interval_that_ends_at_one_is_five_percent():
    assert ratio_p(Estimate(2.0, 1.0, 4.0, dof=4)) == pytest.approx(0.05, abs=1e-6)
    assert ratio_p(Estimate(2.0, 1.0, 4.0)) == pytest.approx(0.05, abs=1e-4)
    assert ratio_p(Estimate(1.0, 0.5, 2.0)) == 1
    assert ratio_p(Estimate(2.0, 0.0, float("inf"))) == 1  # a single pair shows nothing
    assert ratio_p(Estimate(2.0, 1.9, 2.1, dof=0)) == 1  # nor does a single start


def verdicts(records):
    rows = make_rows(records)
    return {(rows[c.row].recipe, c.name): c.verdict for c in compare_with_baselines(rows)}


def test_comparisons_say_better_worse_or_noise():
    fast = make_record(recipe=("fast",), speedup=1.9, batches=(1,))
    slow = make_record(recipe=("slow",), speedup=0.7, batches=(1,))
    same = make_record(recipe=("same",), speedup=1.01, batches=(1,))
    found = verdicts([make_record(batches=(1,)), fast, slow, same])
    assert found[("fast", "speedup_b1")] == BETTER
    assert found[("slow", "speedup_b1")] == WORSE
    assert found[("same", "speedup_b1")] == NOISE


def test_comparisons_correct_for_their_number():
    def borderline():
        record = make_record(recipe=("edge",), batches=(1,))
        record.accuracy.against_baseline.drop_pt = 2.0
        record.accuracy.against_baseline.drop_low_pt = 0.1
        record.accuracy.against_baseline.drop_high_pt = 3.9
        record.accuracy.against_baseline.mcnemar_p = 0.04
        record.speedup = []
        return record

    assert verdicts([borderline()])[("edge", "drop_pt")] == WORSE
    others = [make_record(recipe=(f"other{i}",), batches=(1,)) for i in range(4)]
    assert verdicts([borderline(), *others])[("edge", "drop_pt")] == NOISE


def test_a_disturbed_speedup_is_not_judged():
    record = make_record(recipe=("fast",), speedup=3.0, batches=(1,))
    record.speedup[0].disturbed = True
    assert verdicts([record])[("fast", "speedup_b1")] == UNTRUSTED


def test_one_start_is_too_few_to_decide_and_no_part_of_the_family():
    record = make_record(recipe=("fast",), speedup=3.0, batches=(1,))
    record.speedup[0].start_ratios = [3.0]
    assert verdicts([record])[("fast", "speedup_b1")] == TOO_FEW
    table = make_table([make_record(batches=(1,)), record])
    column = [c.name for c in table.columns].index("speedup_b1")
    assert not table.cells[1][column].best


def test_all_comparisons_of_a_report_are_one_family():
    records = [make_record(recipe=("edge",), batches=(1,))]
    records[0].accuracy.against_baseline.mcnemar_p = 0.001
    others = [make_record(recipe=(f"other{i}",), batches=(1,)) for i in range(4)]
    for other in others:
        other.environment = {"cpu": {"model": "Another CPU"}}
    rows = make_rows([*records, *others])
    (item,) = [
        c
        for c in compare_with_baselines(rows)
        if rows[c.row].recipe == "edge" and c.name == "drop_pt"
    ]
    assert item.adjusted_p == pytest.approx(10 * 0.001)  # five drops, five speedups


def test_segmentation_and_clean_splits_are_tested_too():
    record = make_record(recipe=("worse",), batches=(1,))
    record.accuracy.against_baseline = AgainstBaseline(
        5, 3, 7, None, 0.9, "miou", p=1e-4, test="Student's t, jackknife by image"
    )
    record.accuracy_clean = dataclasses.replace(
        record.accuracy, against_baseline=AgainstBaseline(-5, -7, -3, 1e-4, 0.9)
    )
    found = verdicts([record])
    assert found[("worse", "drop_pt")] == WORSE
    assert found[("worse", "clean_drop_pt")] == BETTER


def test_a_model_that_lost_a_class_wins_nothing():
    good = make_record(recipe=("good",), speedup=1.5, batches=(1,))
    broken = make_record(recipe=("broken",), speedup=3.0, batches=(1,))
    broken.accuracy.faithfulness = Faithfulness(
        "a", 0.99, "a", 0.69, 0.5, faults=["lost class 'b' (recall 52% to 3%)"]
    )
    table = make_table([make_record(batches=(1,)), good, broken])
    best = {
        row.recipe: any(cell.best for cell in cells)
        for row, cells in zip(table.rows, table.cells, strict=True)
    }
    assert not best["broken"]
    assert best["good"]
    assert "lost class 'b' (recall 52% to 3%)" in table.rows[1].notes


def test_beats_all_needs_every_competitor():
    winner = Estimate(1.0, 0.98, 1.02)
    alone = Estimate(1.0, 0.98, 1.02, dof=0)
    assert not beats_all(alone, [Estimate(1.2, 1.18, 1.22)], ratio=True)
    assert beats_all(winner, [Estimate(1.2, 1.18, 1.22), Estimate(1.5, 1.4, 1.6)], ratio=True)
    assert not beats_all(winner, [Estimate(1.2, 1.18, 1.22), Estimate(1.02, 1.0, 1.04)], ratio=True)
