"""Mean IoU against torchmetrics, ignored pixels, and the paired comparison of two models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.files import write_json
from pqbench.core.split import IGNORED, PreparedSplit
from pqbench.measure.overlap import iou, jackknife, mean_iou, overlap, share_interval
from pqbench.measure.segmentation import score
from pqbench.measure.session_host import dense_classes

CLASSES = ("sky", "road", "car", "never")
COUNT, SIDE = 8, 12


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (COUNT, SIDE, SIDE)).astype(np.int16)
    labels[rng.random(labels.shape) < 0.1] = IGNORED
    np.save(tmp_path / "labels.npy", labels)
    value = {
        "name": "val",
        "count": COUNT,
        "classes": CLASSES,
        "arrays": ["input"],
        "normalization": {},
        "sources": [f"{i:064x}" for i in range(COUNT)],
        "notes": [],
        "content": "by-hand",
    }
    write_json(tmp_path / "manifest.json", value)
    return PreparedSplit.load(tmp_path)


def damaged(split: PreparedSplit, share: float, seed: int, path: Path) -> Path:
    """The labels with a share of the pixels replaced by chance."""
    rng = np.random.default_rng(seed)
    maps = np.where(split.labels() == IGNORED, 0, split.labels()).astype(np.int16)
    wrong = rng.random(maps.shape) < share
    maps[wrong] = rng.integers(0, 3, int(wrong.sum()))
    np.save(path, maps)
    return path


def test_score_agrees_with_torchmetrics(split: PreparedSplit, tmp_path: Path) -> None:
    file = damaged(split, 0.4, 1, tmp_path / "maps.npy")
    result = score(file, split, tmp_path / "p.parquet")
    maps = torch.from_numpy(np.load(file).astype(np.int64))
    labels = torch.from_numpy(np.asarray(split.labels(), np.int64))
    jaccard = MulticlassJaccardIndex(3, ignore_index=IGNORED)(maps, labels)
    pixels = MulticlassAccuracy(3, average="micro", ignore_index=IGNORED)(maps, labels)
    assert result.miou == pytest.approx(float(jaccard), abs=1e-6)
    assert result.top1 == pytest.approx(float(pixels), abs=1e-6)
    assert result.metric == "miou"
    assert result.miou_low < result.miou < result.miou_high  # type: ignore[operator]
    assert set(result.class_iou) == {"sky", "road", "car"}  # 'never' occurs nowhere


def test_score_perfect_and_against_itself(split: PreparedSplit, tmp_path: Path) -> None:
    file = damaged(split, 0.0, 0, tmp_path / "maps.npy")
    result = score(file, split, tmp_path / "p.parquet", baseline=file)
    assert (result.miou, result.top1, result.macro_f1) == (1.0, 1.0, 1.0)
    assert result.against_baseline is not None
    assert (result.against_baseline.drop_pt, result.against_baseline.agreement) == (0.0, 1.0)
    assert result.against_baseline.mcnemar_p is None


def test_score_drop_interval_excludes_zero_for_a_worse_model(
    split: PreparedSplit, tmp_path: Path
) -> None:
    good = damaged(split, 0.1, 2, tmp_path / "good.npy")
    bad = damaged(split, 0.5, 3, tmp_path / "bad.npy")
    against = score(bad, split, tmp_path / "p.parquet", baseline=good).against_baseline
    assert against is not None
    assert 0 < against.drop_low_pt < against.drop_pt < against.drop_high_pt
    assert 0.5 < against.agreement < 1


def test_overlap_leaves_ignored_pixels_out() -> None:
    label = np.array([[0, 1], [IGNORED, 1]])
    counts = overlap(np.array([[0, 0], [1, 1]]), label, 2)
    assert counts.tolist() == [[1, 1, 2], [1, 2, 1]]
    assert iou(counts).tolist() == [0.5, 0.5]
    assert float(mean_iou(np.zeros((2, 3), np.int64))) == 0.0


def images(rng: np.random.Generator, count: int) -> np.ndarray:
    """Counts by image of two classes; the images differ in size and difficulty."""
    labelled = np.exp(rng.normal(7, 0.8, (count, 2))).astype(np.int64)
    easy = 1 / (1 + np.exp(-rng.normal(2, 1, (count, 1))))
    right = rng.binomial(labelled, np.broadcast_to(easy, labelled.shape))
    predicted = right + (labelled - right)[:, ::-1]
    return np.stack([right, labelled, predicted], -1)


@pytest.mark.parametrize("count", [8, 30])
def test_jackknife_interval_of_mean_iou_covers(count: int) -> None:
    rng = np.random.default_rng(count)
    truth = float(mean_iou(images(rng, 100_000).sum(0)))
    covered = []
    for _ in range(600):
        low, high = share_interval(jackknife(mean_iou, images(rng, count)))
        covered.append(low <= truth <= high)
    assert 0.92 < np.mean(covered) < 0.985  # the percentile bootstrap: below 0.9


def test_score_names_a_lost_class_and_too_few_images(split: PreparedSplit, tmp_path: Path) -> None:
    good = damaged(split, 0.05, 2, tmp_path / "good.npy")
    maps = np.load(good)
    maps[maps == 2] = 1  # no car any more
    np.save(tmp_path / "lost.npy", maps)
    result = score(tmp_path / "lost.npy", split, tmp_path / "p.parquet", baseline=good)
    assert result.faithfulness is not None
    (fault,) = result.faithfulness.faults
    assert fault.startswith("lost class 'car' (IoU 9")
    assert result.too_few == ""
    fine = score(good, split, tmp_path / "p.parquet", baseline=good).faithfulness
    assert fine is not None
    assert fine.faults == []
    assert result.against_baseline is not None
    assert result.against_baseline.p is not None
    assert result.against_baseline.p < 0.001


def test_score_wrong_outputs_are_refused(split: PreparedSplit, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((COUNT, 4), np.float32))
    with pytest.raises(DataError, match="expected class maps"):
        score(tmp_path / "flat.npy", split, tmp_path / "p.parquet")
    np.save(tmp_path / "high.npy", np.full((COUNT, SIDE, SIDE), 9, np.int16))
    with pytest.raises(DataError, match="predicts class 9"):
        score(tmp_path / "high.npy", split, tmp_path / "p.parquet")


def test_dense_classes_keeps_the_highest_and_refuses_nan() -> None:
    scores = np.zeros((2, 3, 4, 5), np.float32)
    scores[:, 2, 1] = 1
    classes = dense_classes(scores)
    assert (classes.shape, classes.dtype) == ((2, 4, 5), np.int16)
    assert (classes[:, 1] == 2).all()
    assert dense_classes(scores[:, :, 0, 0]).shape == (2, 3)
    scores[0, 0, 0, 0] = np.nan
    with pytest.raises(PqbenchError, match="not-a-number"):
        dense_classes(scores)
