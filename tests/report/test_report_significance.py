import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import make_record
from statsmodels.stats.multitest import multipletests

from pqbench.report.rows import Estimate, make_rows
from pqbench.report.significance import (
    BETTER,
    NOISE,
    UNTRUSTED,
    WORSE,
    beats_all,
    compare_with_baselines,
    holm,
    ratio_p,
)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_ratio_p_of_an_interval_that_ends_at_one_is_five_percent():
    assert ratio_p(Estimate(2.0, 1.0, 4.0)) == pytest.approx(0.05, abs=1e-6)
    assert ratio_p(Estimate(1.0, 0.5, 2.0)) == 1
    assert ratio_p(Estimate(2.0, 0.0, float("inf"))) == 1  # a single pair shows nothing


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
        return record

    assert verdicts([borderline()])[("edge", "drop_pt")] == WORSE
    others = [make_record(recipe=(f"other{i}",), batches=(1,)) for i in range(4)]
    assert verdicts([borderline(), *others])[("edge", "drop_pt")] == NOISE


def test_a_disturbed_speedup_is_not_judged():
    record = make_record(recipe=("fast",), speedup=3.0, batches=(1,))
    record.speedup[0].disturbed = True
    assert verdicts([record])[("fast", "speedup_b1")] == UNTRUSTED


def test_environments_are_families_of_their_own():
    records = [make_record(recipe=("edge",), batches=(1,))]
    records[0].accuracy.against_baseline.mcnemar_p = 0.04
    others = [make_record(recipe=(f"other{i}",), batches=(1,)) for i in range(4)]
    for other in others:
        other.environment = {"cpu": {"model": "Another CPU"}}
    rows = make_rows([*records, *others])
    (item,) = [
        c
        for c in compare_with_baselines(rows)
        if rows[c.row].recipe == "edge" and c.name == "drop_pt"
    ]
    assert item.adjusted_p == pytest.approx(0.04)


def test_beats_all_needs_every_competitor():
    winner = Estimate(1.0, 0.98, 1.02)
    assert beats_all(winner, [Estimate(1.2, 1.18, 1.22), Estimate(1.5, 1.4, 1.6)], ratio=True)
    assert not beats_all(winner, [Estimate(1.2, 1.18, 1.22), Estimate(1.02, 1.0, 1.04)], ratio=True)
