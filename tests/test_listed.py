"""A sweep lists its data once, and anew as soon as the data are others."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pqbench.data.folder import ImageFolder
from pqbench.experiment.listed import Listings

LONG_AGO = time.time() - 3600


class Mine(ImageFolder):
    """A user's own kind, which may read more than names."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                (folder / f"{number}.png").write_text(f"{split}{name}{number}")
    settle(tmp_path)
    return tmp_path / "data"


def settle(folder: Path) -> None:
    """All that is there was made an hour ago."""
    for where, _, names in os.walk(folder, topdown=False):
        for path in (*(Path(where, name) for name in names), Path(where)):
            os.utime(path, (LONG_AGO, LONG_AGO))


def source(root: Path, kind: type[ImageFolder] = ImageFolder) -> dict[str, Any]:
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", "root": str(root)}


def test_listing_of_a_sweep_is_made_once_and_is_the_data_sets_own(root: Path) -> None:
    listings, index = Listings(clock=lambda: 0.0), ImageFolder(str(root)).index()
    for _ in range(5):
        assert listings.get(source(root), {}) == (index, index.listing_hash())
    assert listings.listed == 1
    listings.get(source(root), {"classes.txt": "another content"})
    assert listings.listed == 2


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "class", "split"])
def test_change_of_a_folder_is_seen_at_once(root: Path, change: str) -> None:
    listings = Listings(clock=lambda: 0.0)
    _, before = listings.get(source(root), {})
    folder = root / "val" / "cat"
    if change == "added":
        (folder / "2.png").write_text("new")
    elif change == "removed":
        (folder / "1.png").unlink()
    elif change == "renamed":
        (folder / "1.png").rename(folder / "one.png")
    elif change == "class":
        for split in ("train", "val"):
            (root / split / "cow").mkdir()
            (root / split / "cow" / "0.png").write_text("moo")
    else:
        (root / "test" / "cat").mkdir(parents=True)
        (root / "test" / "cat" / "0.png").write_text("new")
    index, found = listings.get(source(root), {})
    assert found != before
    assert found == ImageFolder(str(root)).index().listing_hash()
    assert index == ImageFolder(str(root)).index()


def test_change_in_a_file_is_seen_before_an_experiment_is_made(root: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    listings = Listings(clock=clock)
    _, before = listings.get(source(root), {})
    (root / "val" / "cat" / "0.png").write_text("another")
    assert listings.get(source(root), {})[1] == before  # a look took 1 s, 2 s ago
    assert listings.get(source(root), {}, fresh=True)[1] != before
    (root / "val" / "cat" / "0.png").write_text("a third")
    now[0] += 30.0
    assert listings.get(source(root), {})[1] == ImageFolder(str(root)).index().listing_hash()


def test_folder_that_has_just_changed_is_listed_again(root: Path) -> None:
    listings = Listings(clock=lambda: 0.0)
    (root / "val" / "cat" / "2.png").write_text("new")
    for _ in range(2):
        listings.get(source(root), {})
    assert listings.listed == 2


def test_users_own_kind_is_listed_every_time(root: Path) -> None:
    listings = Listings(clock=lambda: 0.0)
    for _ in range(2):
        listings.get(source(root, Mine), {})
    assert listings.listed == 2
