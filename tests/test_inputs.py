"""Inputs as fed: the documented formula to the bit, and reading ahead without changing anything."""

from __future__ import annotations

import numpy as np
import pytest

from pqbench.core.split import Normalization, ahead, normalize


@pytest.mark.parametrize("shape", [(3, 5, 7, 3), (1, 4, 4, 1)])
def test_normalize_is_the_formula(shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    norm = Normalization((0.485, 0.456, 0.406)[: shape[-1]], (0.229, 0.224, 0.225)[: shape[-1]])
    mean, std = np.asarray(norm.mean, np.float32), np.asarray(norm.std, np.float32)
    whole = raw.astype(np.float32) * (np.float32(1) / (np.float32(255) * std)) - mean / std
    got = normalize(raw, norm)
    assert got.flags.c_contiguous
    assert np.array_equal(got, whole.transpose(0, 3, 1, 2))
    exact = (raw / 255.0 - np.asarray(norm.mean)) / np.asarray(norm.std)
    np.testing.assert_allclose(got, exact.transpose(0, 3, 1, 2), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 32])
def test_normalize_gives_the_same_bits_on_any_number_of_threads(count: int) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (count, 9, 6, 3), np.uint8)
    norm = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    one = normalize(raw, norm)
    for threads in (2, 3):
        assert np.array_equal(normalize(raw, norm, threads), one)


def test_ahead_keeps_order_and_hands_errors_on() -> None:
    def numbers(broken: bool):  # type: ignore[no-untyped-def]
        for i in range(4):
            yield {"x": np.full(2, i)}
        if broken:
            raise OSError("the disk is gone")

    assert [int(batch["x"][0]) for batch in ahead(numbers(broken=False))] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        list(ahead(numbers(broken=True)))
