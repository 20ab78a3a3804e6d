"""A model that answers one class, lost one or is overconfident is said to; an equal one is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

from pqbench.core.proportions import wilson
from pqbench.core.record import Faithfulness
from pqbench.measure.faithfulness import calibration, class_mean_intervals, faithfulness, shown

NAMES = [f"class{i}" for i in range(10)]
Labels = np.ndarray


def answers(rng: np.random.Generator, labels: Labels, recall: float, classes: int = 10) -> Labels:
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    return np.where(rng.random(len(labels)) < recall, labels, wrong)


def look(ours: Labels, labels: Labels, theirs: Labels | None = None) -> Faithfulness:
    low, _ = wilson(int(np.sum(ours == labels)), len(labels))
    return faithfulness(ours, labels, NAMES, low, baseline=theirs)[0]


def test_a_model_that_answers_one_class_is_named() -> None:
    labels = np.repeat([0, 1], [220, 100])  # a constant answer scores 69 %
    ours = np.zeros(320, np.int64)
    ours[-3:] = 1
    theirs = np.where(np.arange(320) % 10 == 0, 1 - labels, labels)
    found = look(ours, labels, theirs)
    assert found.answer == "class0"
    assert found.answer_rate == pytest.approx(317 / 320)
    assert found.constant_score == pytest.approx(220 / 320)
    assert found.balanced_accuracy == pytest.approx(0.515)
    assert found.faults[0].startswith("answers one class: 'class0' for 99.1%")
    assert found.faults[1] == "lost class 'class1' (recall 90% to 3%)"


def test_an_accuracy_that_a_constant_answer_reaches_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [220, 100])
    ours = np.where(rng.random(320) < 0.69, labels, 1 - labels)
    (fault,) = look(ours, labels).faults
    assert fault == "not shown to be better than always answering 'class0' (68.8%)"


def test_a_frequent_class_that_is_answered_often_is_no_fault() -> None:
    labels = np.repeat([0, 1], [970, 30])
    assert look(labels, labels).faults == []


def test_lost_one_of_ten_is_named_and_an_equal_model_is_not_accused() -> None:
    rng = np.random.default_rng(1)
    named, accused = 0, 0
    for _ in range(100):
        labels = rng.integers(0, 10, 320)
        theirs = answers(rng, labels, 0.85)
        flipped = rng.random(320) < 0.05  # equal: as many answers change for better as for worse
        equal = np.where(flipped, answers(rng, labels, 0.85), theirs)
        lost = np.where(theirs == 3, 4, theirs)
        named += any("lost class 'class3'" in f for f in look(lost, labels, theirs).faults)
        accused += bool(look(equal, labels, theirs).faults)
    assert named >= 95
    assert accused <= 5


def test_a_lost_class_of_few_samples_is_not_claimed() -> None:
    labels = np.repeat(np.arange(10), [6, *[50] * 9])
    lost = np.where(labels == 0, 1, labels)
    found = look(lost, labels, labels)
    assert (found.classes[0].score, found.classes[0].p) == (0.0, pytest.approx(2 * 0.5**6))
    assert found.faults == []  # p is 0.03, and ten classes were looked at
    (fault,) = look(np.where(labels == 1, 0, labels), labels, labels).faults
    assert fault == "lost class 'class1' (recall 100% to 0%)"


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(5, 60))
@settings(deadline=None, max_examples=40)
def test_class_means_agree_with_scikit_learn(seed: int, classes: int, each: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    ours = answers(rng, labels, rng.random(), classes)
    found = class_mean_intervals(ours, labels)
    value, low, high = found["balanced_accuracy"]
    assert value == pytest.approx(balanced_accuracy_score(labels, ours))
    assert low is not None
    assert high is not None
    assert 0 <= low <= value <= high <= 1
    f1, low, high = found["macro_f1"]
    assert f1 == pytest.approx(f1_score(labels, ours, average="macro"))
    assert low is not None
    assert high is not None
    assert 0 <= low <= f1 <= high <= 1


def test_class_means_of_rare_classes_have_no_interval() -> None:
    labels = np.repeat([0, 1], [100, 4])
    assert class_mean_intervals(labels, labels)["macro_f1"] == (1.0, None, None)


@pytest.mark.parametrize(("over", "least"), [(0.0, 0.93), (0.1, 0.93)])
def test_calibration_interval_covers(over: float, least: float) -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        probability = 0.5 + 0.5 * rng.beta(4, 1, 400)
        right = rng.random(400) < probability - over
        _, low, high = calibration(right, probability.astype(np.float32))
        covered.append(low <= over <= high)
    assert np.mean(covered) > least


def test_calibration_needs_samples() -> None:
    assert calibration(np.ones(49, bool), np.ones(49, np.float32)) == ()


def test_a_record_of_many_classes_keeps_those_that_fell() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(60), 20)
    theirs = answers(rng, labels, 0.9, 60)
    ours = np.where(theirs == 41, 0, theirs)
    names = [str(i) for i in range(60)]
    found, tested = faithfulness(ours, labels, names, 0.8, baseline=theirs)
    assert tested == 60
    assert len(found.classes) == 20
    assert found.classes[0].name == "41"
    assert found.classes[0].lost
    assert shown(found.classes[:3]) == found.classes[:3]
