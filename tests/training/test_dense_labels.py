"""Labels with a class for every pixel: turned and resized with their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pqbench.core.files import write_json
from pqbench.core.split import IGNORED, PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import build_network, save_network
from pqbench.training.batches import Batches
from pqbench.training.finetune import Finetune
from pqbench.training.loop import distillation
from pqbench.training.nncf_qat import NncfQat
from pqbench.training.sparsify import Sparsify

SIDE = 8


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    """Images whose grey value is their mask's class times 50."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (6, SIDE, SIDE)).astype(np.int16)
    np.save(tmp_path / "input.npy", np.repeat(masks[..., None] * 50, 3, 3).astype(np.uint8))
    masks[:, 0, 0] = IGNORED
    np.save(tmp_path / "labels.npy", masks)
    value = {
        "name": "train",
        "count": 6,
        "classes": ["a", "b", "c"],
        "arrays": ["input"],
        "normalization": {"input": {"mean": [0.0] * 3, "std": [1.0] * 3}},
        "sources": [f"{i:064x}" for i in range(6)],
        "notes": [],
        "content": "by-hand",
    }
    write_json(tmp_path / "manifest.json", value)
    return PreparedSplit.load(tmp_path)


def batches(split: PreparedSplit, train_size: int | None, augment: str) -> Batches:
    return Batches(split, np.arange(6), 6, train_size, augment, seed=3)


@pytest.mark.parametrize("augment", ["none", "flip", "dihedral"])
def test_batches_turn_masks_with_their_images(split: PreparedSplit, augment: str) -> None:
    for _ in range(2):
        ((image,), labels) = next(iter(batches(split, None, augment)))
        shown = (image[:, 0] * 255 / 50).round().long()
        counted = labels != IGNORED
        assert int((~counted).sum()) == 6
        assert torch.equal(shown[counted], labels[counted])


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_batches_cut_masks_with_their_images(split: PreparedSplit, augment: str) -> None:
    """A mask has the class of the pixel that is nearest to what its image shows there."""
    ((image,), labels) = next(iter(batches(split, None, augment)))
    shown = image[:, 0] * 255 / 50
    counted = labels != IGNORED
    agree = ((shown - labels).abs() <= 1)[counted].float().mean()
    assert agree > (0.99 if augment == "shift" else 0.8)
    assert set(labels.unique().tolist()) <= {IGNORED, 0, 1, 2}


def test_batches_resize_masks_to_values_that_exist(split: PreparedSplit) -> None:
    ((image,), labels) = next(iter(batches(split, 5, "none")))
    assert image.shape[-2:] == labels.shape[-2:] == (5, 5)
    assert set(labels.unique().tolist()) <= {IGNORED, 0, 1, 2}
    assert labels.dtype == torch.int64


def test_distillation_of_dense_scores_is_the_mean_over_positions() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 4).unbind(0)
    flat = distillation(
        student.permute(0, 2, 3, 1).reshape(-1, 3), teacher.permute(0, 2, 3, 1).reshape(-1, 3), 2.0
    )
    torch.testing.assert_close(distillation(student, teacher, 2.0), flat)


@pytest.mark.parametrize(
    "step",
    [
        Finetune(epochs=2, batch_size=3, augment="none"),
        Sparsify(epochs=2, batch_size=3, augment="none"),
        NncfQat(epochs=2, batch_size=3, augment="none", calibration_size=6),
    ],
    ids=["finetune", "sparsify", "nncf_qat"],
)
def test_step_trains_on_a_class_for_each_pixel_and_says_so(
    step: Finetune, split: PreparedSplit, tmp_path: Path
) -> None:
    assert "each pixel" in step.limits[0]
    node = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 3, "kernel_size": 1}
    folders = [tmp_path / name for name in ("source", "result")]
    for folder in folders:
        folder.mkdir()
    network = build_network(node)
    source = save_network(network, node, folders[0], split.specs(), ("logits",), ())
    result = step.apply(source, StepData(split, seed=0, threads=1), folders[1])
    assert result.lineage[-1].details["steps"] == 4
