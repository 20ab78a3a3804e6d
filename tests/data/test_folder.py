"""A user's own folders: names of splits, order of classes, links, kinds of files, copies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pqbench.core.dataset import DataIndex, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.data.folder import ImageFolder
from pqbench.data.imagewoof import Imagewoof
from pqbench.data.listing import list_images
from pqbench.data.prepare import assert_disjoint, prepare
from pqbench.data.preprocess import Preprocess
from pqbench.data.subset import choose

SMALL = Preprocess(8, 8, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def image(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)
    return path


def tree(root: Path, *splits: str, classes: str = "ab", count: int = 2) -> None:
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                image(root / split / name / f"{i}.png", 1 + i + 10 * c + 100 * s)


@pytest.mark.parametrize(
    ("folders", "train", "scored"),
    [
        (("Training", "Testing"), "Training", "Testing"),
        (("train", "valid"), "train", "valid"),
        (("Train", "Validation", "Test"), "Train", "Validation"),
        (("TRAIN", "TEST"), "TRAIN", "TEST"),
        (("train", "val", "test"), "train", "val"),
        (("training_set", "test_set"), "training_set", "test_set"),
        (("TrainImages", "ValImages", "TestImages"), "TrainImages", "ValImages"),
        (("seg_train", "seg_test"), "seg_train", "seg_test"),
    ],
)
def test_imagefolder_knows_the_usual_names_of_splits(
    folders: tuple[str, ...], train: str, scored: str, tmp_path: Path
) -> None:
    tree(tmp_path, *folders)
    index = ImageFolder(str(tmp_path)).index()
    assert index.classes == ("a", "b")
    assert {f.parts[-3] for f in index.split("train").files} == {train}
    assert {f.parts[-3] for f in index.split("val").files} == {scored}
    assert ("test" in index.splits) == (len(folders) == 3)
    said = f"'{train}' was taken as the train split" in " ".join(index.notes)
    assert said == ((train, scored) != ("train", "val"))


def test_imagefolder_kaggle_case_has_ten_classes(case_images: Path) -> None:
    index = ImageFolder(str(case_images / "kaggle")).index()
    assert len(index.classes) == 10
    assert (len(index.split("train")), len(index.split("val"))) == (4000, 1000)


def test_imagefolder_splits_of_unknown_names_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "fold1", "fold2")
    with pytest.raises(DataError, match=r"fold1,fold2.*splits, not classes.*source\.train=fold1"):
        ImageFolder(str(tmp_path)).index()
    index = ImageFolder(str(tmp_path), train="fold1", val="fold2").index()
    assert len(index.split("val")) == 4


def test_imagefolder_a_class_may_be_called_train(tmp_path: Path) -> None:
    tree(tmp_path, ".", classes="", count=0)
    for i in range(4):
        image(tmp_path / "train" / f"{i}.png", i)
        image(tmp_path / "plane" / f"{i}.png", 50 + i)
    assert ImageFolder(str(tmp_path)).index().classes == ("plane", "train")


def test_imagefolder_finds_splits_in_folders_of_the_archives_name(tmp_path: Path) -> None:
    """As ``seg_train/seg_train/<class>`` of archives that repeat their name."""
    tree(tmp_path / "archive" / "seg_train", "seg_train")
    tree(tmp_path / "archive" / "seg_test", "seg_test")
    index = ImageFolder(str(tmp_path)).index()
    assert index.classes == ("a", "b")
    assert {len(index.split(name)) for name in ("train", "val")} == {4}
    shutil.rmtree(tmp_path / "archive" / "seg_test")
    (tmp_path / "archive" / "seg_train").rename(tmp_path / "archive" / "train")
    with pytest.raises(DataError, match="has no sub-folder 'val'"):
        ImageFolder(str(tmp_path / "archive")).index()


def test_imagefolder_classes_with_words_of_splits_stay_classes(tmp_path: Path) -> None:
    for name in ("train_station", "test_tube"):
        for i in range(4):
            image(tmp_path / name / f"of_{name}" / f"{i}.png", i + len(name))
    assert ImageFolder(str(tmp_path)).index().classes == ("test_tube", "train_station")


def test_imagefolder_classes_with_the_same_sub_folders_can_be_said(tmp_path: Path) -> None:
    tree(tmp_path, "good", "bad")  # seen from a and from b
    with pytest.raises(DataError, match=r"dataset\.classes=\[bad,good\]"):
        ImageFolder(str(tmp_path)).index()
    index = ImageFolder(str(tmp_path), classes=["good", "bad"], held_out=0.5).index()
    assert index.classes == ("good", "bad")


def test_imagefolder_val_may_lack_a_class(tmp_path: Path) -> None:
    tree(tmp_path, "train", "val", classes="abc")
    shutil.rmtree(tmp_path / "val" / "b")
    (tmp_path / "val" / "a" / "0.png").unlink()
    for empty in (False, True):
        index = ImageFolder(str(tmp_path)).index()
        assert index.classes == ("a", "b", "c")
        assert index.split("val").labels == (0, 2, 2)
        assert "val has no image of 1 of 3 classes: b" in index.split("val").notes
        if not empty:
            (tmp_path / "val" / "b").mkdir()
    shutil.rmtree(tmp_path / "train" / "c")
    with pytest.raises(DataError, match=r"val holds classes that .* has not: c"):
        ImageFolder(str(tmp_path)).index()


def test_imagefolder_classes_in_the_order_of_the_outputs(tmp_path: Path) -> None:
    names = [str(i) for i in range(12)]
    for split in ("train", "val"):
        for i, name in enumerate(names):
            image(tmp_path / split / name / "x.png", i)
    index = ImageFolder(str(tmp_path), classes=list(range(12))).index()
    assert index.classes == tuple(names)
    assert [f.parent.name for f in index.split("val").files] == names
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n")
    again = ImageFolder(str(tmp_path), classes=str(tmp_path / "labels.txt")).index()
    assert again.listing_hash() == index.listing_hash()
    assert ImageFolder(str(tmp_path)).index().classes[:3] == ("0", "1", "10")
    with pytest.raises(ConfigError, match=r"differ: 11, 12"):
        ImageFolder(str(tmp_path), classes=[*names[:11], "12"]).index()
    with pytest.raises(ConfigError, match="no such file"):
        ImageFolder(str(tmp_path), classes="nowhere.txt").index()


def test_imagefolder_reads_what_torchvision_reads(tmp_path: Path) -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    for i, extension in enumerate(IMG_EXTENSIONS):
        for name in "ab":
            image(tmp_path / name / f"{i}{extension.upper()}", i)
    index = ImageFolder(str(tmp_path), held_out=0.5).index()
    assert sum(len(s) for s in index.splits.values()) == 2 * len(IMG_EXTENSIONS)
    done = prepare(ImageFolder(str(tmp_path), held_out=0.5), "train", SMALL, tmp_path / "out")
    assert done.count == len(index.split("train"))


def test_imagefolder_files_of_another_kind_are_named(tmp_path: Path) -> None:
    tree(tmp_path, ".", classes="ab")
    for file in (tmp_path / "a").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"no image that is read: it has 2 \.heic.*\.ppm"):
        ImageFolder(str(tmp_path)).index()


def test_list_images_follows_links_and_takes_every_file_once(tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "deep" / "2.png", 2)
    a = tmp_path / "root" / "a"
    image(a / "1.png", 1)
    (a / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (a / "up").symlink_to(a, target_is_directory=True)
    (a / "higher").symlink_to(tmp_path, target_is_directory=True)
    (a / "same.png").symlink_to(a / "1.png")
    (a / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = list_images(a)
    assert [p.relative_to(a).as_posix() for p in found.images] == ["1.png", "more/deep/2.png"]
    assert [p.name for p in found.dangling] == ["gone.png"]
    assert {p.name for p in found.repeated} == {"up", "higher", "same.png"}


def test_imagefolder_says_what_links_it_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tree(root, ".", classes="ab", count=4)
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "loop").symlink_to(root, target_is_directory=True)
    index = ImageFolder(str(root)).index()
    assert index.classes == ("a", "b")
    assert sum(len(s) for s in index.splits.values()) == 8
    assert "1 links lead nowhere" in index.split("train").notes[0]
    (root / "c").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    with pytest.raises(DataError, match=r"root/c is a link that leads nowhere"):
        ImageFolder(str(root)).index()


class Given:
    """A data set of given splits."""

    def __init__(self, **splits: Split) -> None:
        self.splits = splits

    def index(self) -> DataIndex:
        return DataIndex(("a", "b"), self.splits)


def test_training_copies_of_scored_images_are_left_out_and_counted(tmp_path: Path) -> None:
    tree(tmp_path, "train", "val", count=3)
    shutil.copy(tmp_path / "val" / "a" / "1.png", tmp_path / "train" / "b" / "copy.png")
    data = ImageFolder(str(tmp_path))
    val = prepare(data, "val", SMALL, tmp_path / "v")
    train = prepare(data, "train", SMALL, tmp_path / "t", exclude=["val"])
    assert_disjoint(train, val)
    assert train.count == 6
    assert (
        "1 samples left out of 'train': copies of samples scored as 'val', the first: b/copy.png"
        in (train.notes)
    )
    whole = prepare(data, "train", SMALL, tmp_path / "w")
    with pytest.raises(DataError, match="1 samples are in both"):
        assert_disjoint(whole, val)


def test_scored_copies_with_other_labels_are_noted(tmp_path: Path) -> None:
    files = [image(tmp_path / name, value) for name, value in (("a/1.png", 1), ("b/2.png", 1))]
    third = image(tmp_path / "b" / "3.png", 3)
    data: Any = Given(val=Split((*files, third), (0, 1, 1)))
    done = prepare(data, "val", SMALL, tmp_path / "out")
    assert done.count == 3
    assert "1 images occur twice with different labels" in done.notes[0]
    assert "a/1.png and b/2.png" in done.notes[0]


def test_official_imagewoof_can_be_calibrated(test_data: Path) -> None:
    index = Imagewoof(str(test_data / "imagewoof2-224")).index()
    train, notes = choose(index, "train", ["val"], None, 0)
    gone = set(index.split("train").files) - set(train.files)
    assert {f.name for f in gone} == {"n02087394_12539.JPEG", "n02093754_5915.JPEG"}
    assert "2 samples left out of 'train': copies of samples scored as 'val'" in notes[-1]


def test_one_mean_makes_images_grey(tmp_path: Path) -> None:
    tree(tmp_path, "train", "val")
    grey = Preprocess(8, 8, "bilinear", (0.5,), (0.25,))
    done = prepare(ImageFolder(str(tmp_path)), "val", grey, tmp_path / "out")
    assert done.stored("input").shape == (4, 8, 8, 1)
    fed = done.feed([0])["input"]
    with Image.open(tmp_path / "val" / "a" / "0.png") as file:
        expected = (np.asarray(file.convert("L"), np.float32) / 255 - 0.5) / 0.25
    assert fed.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(fed[0, 0], expected, atol=1e-5)
    with pytest.raises(ConfigError, match="one each for grey"):
        Preprocess(8, 8, "bilinear", (0.5, 0.5), (0.5, 0.5))
