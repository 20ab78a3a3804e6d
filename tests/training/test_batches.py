"""Training batches from the memory map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pqbench.core.errors import ConfigError
from pqbench.core.split import PreparedSplit
from pqbench.training.batches import (
    ASPECT,
    LEAST_AREA,
    SHIFT,
    Batches,
    augmented,
    boxes,
    changes_size,
    check_size,
    cut,
    split_off,
)


def _batches(split: PreparedSplit, **changes: object) -> Batches:
    chosen = {"batch_size": 16, "train_size": None, "augment": "none", "seed": 0, **changes}
    return Batches(split=split, indices=np.arange(len(split)), **chosen)


def test_batches_feed_what_inference_is_fed(split: PreparedSplit) -> None:
    images = torch.cat([x for (x,), _ in _batches(split, shuffle=False)])
    expected = split.feed(slice(0, len(split)))["input"]
    assert torch.allclose(images, torch.from_numpy(expected), atol=1e-5)


def test_batches_keep_image_and_label_together_when_shuffled(split: PreparedSplit) -> None:
    known = split.feed(slice(0, len(split)))["input"]
    labels = split.labels()
    for (x,), y in _batches(split):
        for image, label in zip(x.numpy(), y.tolist(), strict=True):
            match = np.abs(known - image).reshape(len(known), -1).max(axis=1) < 1e-4
            assert labels[match].tolist() == [label] * int(match.sum())
            assert match.any()


def test_batches_differ_by_pass_and_repeat_by_seed(split: PreparedSplit) -> None:
    one, two = _batches(split, augment="flip"), _batches(split, augment="flip")
    first, second = [torch.cat([y for _, y in one]) for _ in range(2)]
    assert not torch.equal(first, second)
    assert torch.equal(first, torch.cat([y for _, y in two]))


@given(count=st.integers(2, 120), batch_size=st.integers(1, 50), shuffle=st.booleans())
def test_batches_leave_out_less_than_half_a_batch(
    count: int, batch_size: int, shuffle: bool, split: PreparedSplit
) -> None:
    batches = Batches(split, np.arange(count), batch_size, None, "none", 0, shuffle)
    sizes = batches.sizes()
    assert len(batches) == len(sizes) >= 1
    left_out = count - sum(sizes)
    assert 0 <= left_out < max(2, batch_size / 2)
    if not shuffle:
        assert left_out == 0


def test_batches_resize_for_training(split: PreparedSplit) -> None:
    (x,), _ = next(iter(_batches(split, train_size=32)))
    assert x.shape == (16, 3, 32, 32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert changes_size(32, split)
    assert not changes_size(48, split)
    assert not changes_size(None, split)


def test_batches_end_at_the_models_own_size(split: PreparedSplit) -> None:
    batches = _batches(split, train_size=32, small_passes=2)
    sides = [{x.shape[-1] for (x,), _ in batches} for _ in range(3)]
    assert sides == [{32}, {32}, {48}]


def test_training_larger_than_the_model_is_fed_is_refused(split: PreparedSplit) -> None:
    check_size(48, split)
    check_size(None, split)
    with pytest.raises(
        ConfigError, match=r"train_size=64 is larger than the 48 px.*train_size=null"
    ):
        check_size(64, split)


@pytest.mark.parametrize(("augment", "expected"), [("none", 1), ("flip", 2), ("dihedral", 8)])
def test_augmented_gives_each_symmetry_once(augment: str, expected: int) -> None:
    image = torch.arange(16).reshape(1, 1, 4, 4)
    turned = augmented(image.expand(8, 1, 4, 4), np.arange(8), augment)
    assert len({tuple(t.flatten().tolist()) for t in turned}) == expected
    assert torch.equal(image.flatten(), torch.arange(16))
    for t in turned:
        assert sorted(t.flatten().tolist()) == list(range(16))


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_batches_show_another_part_of_each_image_at_every_pass(
    split: PreparedSplit, augment: str
) -> None:
    batches = Batches(split, np.arange(len(split)), len(split), None, augment, seed=1)
    again = Batches(split, np.arange(len(split)), len(split), None, augment, seed=1)
    passes = [next(iter(batches))[0][0] for _ in range(2)]
    assert not torch.equal(*passes)
    assert torch.equal(passes[0], next(iter(again))[0][0])
    assert passes[0].is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), augment=st.sampled_from(["shift", "crop"]))
def test_boxes_stay_within_what_they_may_show(seed: int, augment: str) -> None:
    drawn = boxes(np.random.default_rng(seed), 16, augment)
    assert drawn is not None
    size, centre = drawn[:, :2], drawn[:, 2:]
    if augment == "shift":
        assert (size == 1).all()
        assert (np.abs(centre) <= 2 * SHIFT).all()
    else:
        assert (np.abs(centre) + size <= 1 + 1e-9).all()
        assert (size.prod(1) >= LEAST_AREA / ASPECT).all()
        assert (size <= 1).all()


def test_cut_shifts_by_whole_pixels_and_goes_on_with_the_edge() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    moved = cut(image, np.array([[1, 1, 0.26, -0.25]]))  # 1.04 pixels left, 1 down
    expected = image[:, :, [0, 0, 1, 2, 3, 4, 5, 6]][:, :, :, [1, 2, 3, 4, 5, 6, 7, 7]]
    torch.testing.assert_close(moved, expected)
    assert torch.equal(cut(image, np.array([[1, 1, 0.0, 0.0]])), image)


def test_cut_enlarges_the_part_that_is_shown() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[:, :, :4, 4:] = 1
    shown = cut(image, np.array([[0.5, 0.5, 0.5, -0.5]]))  # the top right quarter
    assert shown[:, :, 1:-1, 1:-1].min() == 1
    assert set(cut(image, np.array([[0.9, 0.7, 0.05, 0.1]]), "nearest").unique().tolist()) == {0, 1}


@settings(deadline=None)
@given(share=st.floats(0.01, 0.9), seed=st.integers(0, 100))
def test_split_off_is_disjoint_and_complete(share: float, seed: int, split: PreparedSplit) -> None:
    train, validation = split_off(split, share, seed)
    assert len(validation) == max(1, round(share * len(split)))
    assert sorted([*train, *validation]) == list(range(len(split)))
