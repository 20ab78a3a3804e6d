"""The pictures beside a record are of the samples whose answers changed, lost ones first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pqbench.core.files import write_json
from pqbench.core.split import MANIFEST, PreparedSplit
from pqbench.measure.flips import FOLDER, MOST, in_order, save_flips


def split_of(folder: Path, count: int = 40, channels: int = 3) -> PreparedSplit:
    """Sample i is a plain square of grey level 6 i."""
    folder.mkdir()
    levels = (6 * np.arange(count)).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (count, 120, 120, channels))
    np.save(folder / "image.npy", pixels)
    np.save(folder / "labels.npy", np.zeros(count, np.int64))
    write_json(
        folder / MANIFEST,
        {
            "name": "val", "count": count, "classes": ["a", "b", "c"], "arrays": ["image"],
            "normalization": {}, "sources": [str(i) for i in range(count)], "notes": [],
            "content": "x", "files": [f"a/{i}.png" for i in range(count)],
        },
    )  # fmt: skip
    return PreparedSplit.load(folder)


def outputs(path: Path, answers: list[int]) -> Path:
    np.save(path, np.eye(3, dtype=np.float32)[answers])
    return path


def test_flips_are_ordered_lost_won_and_wrong_both_times() -> None:
    labels = np.zeros(5, np.int64)
    before, after = np.array([0, 1, 1, 0, 1]), np.array([0, 2, 0, 1, 1])
    assert in_order(labels, before, after).tolist() == [3, 2, 1]


def test_flips_are_saved_as_small_pictures(tmp_path: Path) -> None:
    split = split_of(tmp_path / "split", channels=1)
    base = outputs(tmp_path / "base.npy", [0] * 39 + [1])
    ours = outputs(tmp_path / "ours.npy", [0] * 10 + [1] * 20 + [0] * 10)
    assert save_flips(split, ours, base, tmp_path)
    names = sorted(int(path.stem) for path in (tmp_path / FOLDER).iterdir())
    assert names == list(range(10, 10 + MOST))
    picture = Image.open(tmp_path / FOLDER / "12.jpg")
    assert picture.size == (96, 96)
    assert abs(int(np.asarray(picture).mean()) - 72) < 3


def test_flips_are_none_where_nothing_changed_or_there_are_no_images(tmp_path: Path) -> None:
    split = split_of(tmp_path / "split")
    base = outputs(tmp_path / "base.npy", [0] * 40)
    assert not save_flips(split, base, base, tmp_path)
    assert not save_flips(split, outputs(tmp_path / "few.npy", [1] * 3), base, tmp_path)
    np.save(tmp_path / "split" / "image.npy", np.zeros((40, 8), np.int64))  # tokens
    assert not save_flips(split, outputs(tmp_path / "ours.npy", [1] * 40), base, tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_take_keeps_the_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = split_of(tmp_path / "split").take(3, tmp_path / "few")
    assert [f"a/{source}.png" for source in few.sources] == list(few.files)
