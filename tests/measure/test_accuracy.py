"""Accuracy and its paired comparison, against the libraries that compute the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from session_backends import CLASSES, write_split
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.proportions import mcnemar_p, paired_difference, wilson
from pqbench.core.record import json_schema
from pqbench.core.split import PreparedSplit
from pqbench.measure.accuracy import compare, score, top_k
from pqbench.measure.faithfulness import macro_f1

LABELS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=80
)


@given(st.integers(1, 5000), st.floats(0, 1))
@settings(deadline=None)
def test_wilson_agrees_with_statsmodels(count: int, share: float) -> None:
    successes = round(share * count)
    expected = proportion_confint(successes, count, method="wilson")
    assert wilson(successes, count) == pytest.approx(expected, abs=1e-9)


@given(LABELS)
@settings(deadline=None)
def test_macro_f1_agrees_with_scikit_learn_and_torchmetrics(
    rows: list[tuple[int, int, int]],
) -> None:
    labels, predictions = (np.array([r[i] for r in rows]) for i in (0, 1))
    ours = macro_f1(predictions, labels)
    assert ours == pytest.approx(f1_score(labels, predictions, average="macro"))
    theirs = multiclass_f1_score(
        torch.tensor(predictions), torch.tensor(labels), num_classes=7, average="macro"
    )
    assert ours == pytest.approx(float(theirs), abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 50))
@settings(deadline=None, max_examples=30)
def test_top_k_agrees_with_torchmetrics(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 9)).astype(np.float32)
    labels = rng.integers(0, 9, count)
    expected = multiclass_accuracy(
        torch.tensor(logits), torch.tensor(labels), num_classes=9, top_k=5, average="micro"
    )
    assert top_k(logits, labels, 5) == pytest.approx(float(expected))


@given(st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None)
def test_mcnemar_agrees_with_scipy_and_statsmodels(lost: int, gained: int) -> None:
    ours = mcnemar_p(lost, gained)
    if lost + gained:
        expected = stats.binomtest(min(lost, gained), lost + gained, 0.5).pvalue
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)
        table = mcnemar([[10, lost], [gained, 10]], exact=True)
        assert ours == pytest.approx(min(1.0, table.pvalue), rel=1e-9, abs=1e-12)
    else:
        assert ours == 1.0


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 500))
@settings(deadline=None)
def test_paired_difference_holds_the_estimate_and_mirrors(
    lost: int, gained: int, same: int
) -> None:
    count = lost + gained + same
    if count == 0:
        return
    low, high = paired_difference(lost, gained, count)
    assert -1 <= low <= (lost - gained) / count <= high <= 1
    mirrored = paired_difference(gained, lost, count)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 500))
@settings(deadline=None)
def test_paired_difference_excludes_zero_exactly_if_mcnemars_score_test_rejects(
    lost: int, gained: int, same: int
) -> None:
    low, high = paired_difference(lost, gained, lost + gained + same)
    if lost + gained == 0:
        assert low < 0 < high
        return
    z = abs(lost - gained) / np.sqrt(lost + gained)
    if abs(z - 1.959964) < 1e-3:
        return
    assert (low > 0 or high < 0) == (z > 1.959964)


def test_paired_difference_solves_tangos_equation() -> None:
    # At each end the score statistic, with the discordant cell fitted under the constraint by
    # maximum likelihood (here by brute force), is the normal quantile.
    from scipy.optimize import minimize_scalar

    lost, gained, count = 12, 3, 60
    for delta, sign in zip(paired_difference(lost, gained, count), (1, -1), strict=True):

        def negative_likelihood(q: float, delta: float = delta) -> float:
            p12, p21 = q + delta, q
            rest = 1 - p12 - p21
            if min(p12, p21, rest) <= 0:
                return np.inf
            cells = (lost, gained, count - lost - gained)
            return -sum(n * np.log(p) for n, p in zip(cells, (p12, p21, rest), strict=True))

        bounds = (max(0, -delta), (1 - delta) / 2)
        q = minimize_scalar(negative_likelihood, bounds=bounds, method="bounded").x
        statistic = (lost - gained - count * delta) / np.sqrt(count * (2 * q + delta * (1 - delta)))
        assert statistic == pytest.approx(sign * 1.96, abs=0.01)


@pytest.mark.parametrize(("lost", "gained", "count"), [(0.1, 0.1, 60), (0.02, 0.01, 500)])
def test_paired_difference_covers_the_truth(lost: float, gained: float, count: int) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(1000):
        b, c, _ = rng.multinomial(count, [lost, gained, 1 - lost - gained])
        low, high = paired_difference(int(b), int(c), count)
        covered.append(low <= lost - gained <= high)
    assert 0.93 < np.mean(covered) < 0.99


@given(LABELS)
@settings(deadline=None)
def test_compare_is_the_difference_of_the_accuracies(rows: list[tuple[int, int, int]]) -> None:
    labels, ours, theirs = (np.array([r[i] for r in rows]) for i in (0, 1, 2))
    result = compare(ours, theirs, labels)
    assert result.drop_pt == pytest.approx(
        100 * (np.mean(theirs == labels) - np.mean(ours == labels))
    )
    assert result.agreement == pytest.approx(np.mean(ours == theirs))


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    return PreparedSplit.load(write_split(tmp_path / "split", count=50))


def save_logits(path: Path, right: int, split: PreparedSplit) -> Path:
    """Outputs that are right for exactly the first ``right`` samples."""
    labels = np.asarray(split.labels())
    chosen = np.where(np.arange(split.count) < right, labels, (labels + 1) % CLASSES)
    logits = np.zeros((split.count, CLASSES), np.float32)
    logits[np.arange(split.count), chosen] = 3.0
    np.save(path, logits)
    return path


def test_score_of_planted_outputs(tmp_path: Path, split: PreparedSplit) -> None:
    logits = save_logits(tmp_path / "l.npy", 40, split)
    result = score(
        logits, split, tmp_path / "p.parquet", save_logits(tmp_path / "b.npy", 45, split)
    )
    assert (result.count, result.top1) == (50, 0.8)
    assert result.top1_low < 0.8 < result.top1_high
    assert result.against_baseline is not None
    assert result.against_baseline.drop_pt == pytest.approx(10)
    assert result.against_baseline.agreement == pytest.approx(0.9)
    assert result.against_baseline.mcnemar_p == pytest.approx(2 * 0.5**5)
    schema = json_schema()["properties"]["accuracy"]["anyOf"][0]
    jsonschema.validate(dataclasses.asdict(result), schema)


def test_score_writes_one_row_per_sample(tmp_path: Path, split: PreparedSplit) -> None:
    score(save_logits(tmp_path / "l.npy", 40, split), split, tmp_path / "p.parquet")
    table = pd.read_parquet(tmp_path / "p.parquet")
    named = ["label_name", "prediction_name"]
    assert list(table.columns) == [
        "index", "path", "label", "prediction", *named, "probability", "source",
    ]  # fmt: skip
    assert table["label_name"].tolist() == [split.classes[i] for i in table["label"]]
    assert (table["label"] == table["prediction"]).mean() == 0.8
    assert table["probability"].iloc[0] == pytest.approx(np.exp(3) / (np.exp(3) + 6), rel=1e-5)
    assert tuple(table["source"]) == split.sources


def test_score_refuses_outputs_of_another_length(tmp_path: Path, split: PreparedSplit) -> None:
    np.save(tmp_path / "l.npy", np.zeros((49, CLASSES), np.float32))
    with pytest.raises(DataError, match="expected \\(50, classes\\)"):
        score(tmp_path / "l.npy", split, tmp_path / "p.parquet")


def test_score_refuses_too_few_outputs(tmp_path: Path, split: PreparedSplit) -> None:
    np.save(tmp_path / "l.npy", np.zeros((50, 2), np.float32))
    with pytest.raises(DataError, match="has 2 outputs"):
        score(tmp_path / "l.npy", split, tmp_path / "p.parquet")


def test_score_names_outputs_that_are_not_finite(tmp_path: Path, split: PreparedSplit) -> None:
    logits = np.zeros((50, CLASSES), np.float32)
    logits[3:5, 0] = np.nan
    np.save(tmp_path / "l.npy", logits)
    with pytest.raises(PqbenchError, match="2 of 50 samples"):
        score(tmp_path / "l.npy", split, tmp_path / "p.parquet")


def test_score_of_few_classes_has_no_top5(tmp_path: Path, split: PreparedSplit) -> None:
    np.save(split.folder / "labels.npy", np.zeros(50, np.int64))
    np.save(tmp_path / "l.npy", np.zeros((50, 5), np.float32))
    assert score(tmp_path / "l.npy", split, tmp_path / "p.parquet").top5 is None
