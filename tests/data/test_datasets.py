"""Splits of the shipped data sets and of a user's own folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pqbench.core.dataset import DataIndex, Split
from pqbench.core.errors import DataError
from pqbench.data.elpv import Elpv
from pqbench.data.folder import ImageFolder
from pqbench.data.imagenette import CLASSES, Imagenette
from pqbench.data.stratify import stratified_split


def image(path: Path, value: int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, value // 256, 7)).save(path)
    return path


def golden(split: Split) -> str:
    rows = (f"{f.name} {label}" for f, label in zip(split.files, split.labels, strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


# The checkpoint that pqbench ships was trained on exactly this split.
@pytest.mark.parametrize(
    ("name", "count", "defective", "digest"),
    [
        ("train", 1970, 617, "c6ff4dc0e8da71439c378d1e4fb1ab7e53ecc6e6851158de2f39d72414d6e881"),
        ("val", 654, 204, "1f0476cd3604d4ce58a4671f92427bbecbbc40cb1df57fa29763b8b3b5933a5a"),
    ],
)
def test_elpv_split_stays_the_same_for_ever(
    name: str, count: int, defective: int, digest: str
) -> None:
    pytest.importorskip("elpv_dataset")
    split = Elpv().index().split(name)
    assert (len(split), sum(split.labels)) == (count, defective)
    assert golden(split) == digest


def test_elpv_wrong_root_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv"):
        Elpv(str(tmp_path)).index()


def test_elpv_names_a_missing_image(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("images/cell0001.png  1.0  mono\n")
    with pytest.raises(DataError, match=r"cell0001\.png"):
        Elpv(str(tmp_path)).index()


def test_elpv_names_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("images/cell0001.png  often  mono\n")
    with pytest.raises(DataError, match="line 1"):
        Elpv(str(tmp_path)).index()


@given(
    st.lists(st.tuples(st.text(max_size=5), st.integers(0, 3)), unique_by=lambda row: row[0]),
    st.floats(0, 1),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_stratified_split_is_a_partition_whatever_the_order(rows, share, seed, random) -> None:  # type: ignore[no-untyped-def]
    def run(rows):  # type: ignore[no-untyped-def]
        train, held = stratified_split([k for k, _ in rows], [s for _, s in rows], share, seed)
        assert sorted(train + held) == list(range(len(rows)))
        for stratum in {s for _, s in rows}:
            size = sum(s == stratum for _, s in rows)
            assert sum(rows[i][1] == stratum for i in held) == round(share * size)
        return {rows[i][0] for i in held}

    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert run(rows) == run(shuffled)


def test_imagenette_says_the_leak_and_has_a_clean_split(test_data: Path) -> None:
    index = Imagenette(str(test_data / "imagenette2-224")).index()
    assert len(index.split("val")) == 3925
    assert "3,791 of the 3,925 Imagenette val images" in index.split("val").notes[0]
    clean = index.split("clean")
    assert len(clean) == 500
    assert all(f.name.startswith("ILSVRC2012_val_") for f in clean.files)
    assert not index.split("train").notes
    assert index.imagenet_indices == (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
    assert len(index.classes) == 10


def test_imagenette_indices_are_those_of_torchvision() -> None:
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert {name: names[index] for name, index in CLASSES.values()} == {
        name: name for name, _ in CLASSES.values()
    }


def test_imagenette_wrong_root_names_path_and_layout(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            Imagenette(str(root)).index()
        assert str(root) in str(caught.value)
        assert "train/<wnid>" in str(caught.value)


def test_imagenette_missing_class_is_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        for wnid in list(CLASSES)[:9]:
            image(tmp_path / name / wnid / f"{name}.JPEG")
    with pytest.raises(DataError, match="n03888257"):
        Imagenette(str(tmp_path)).index()


def test_imagefolder_reads_two_levels(tmp_path: Path) -> None:
    for i, name in enumerate(["train/b/1.png", "train/a/x/2.JPG", "val/a/3.png", "val/b/4.bmp"]):
        image(tmp_path / name, i)
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    image(tmp_path / "train" / ".hidden" / "5.png")
    index = ImageFolder(str(tmp_path)).index()
    assert index.classes == ("a", "b")
    assert [f.name for f in index.split("train").files] == ["2.JPG", "1.png"]
    assert index.split("train").labels == (0, 1)
    assert index.imagenet_indices is None


def test_imagefolder_holds_out_a_share_of_one_level(tmp_path: Path) -> None:
    for i in range(12):
        image(tmp_path / "ab"[i % 2] / f"{i}.png", i)
    index = ImageFolder(str(tmp_path), held_out=0.34).index()
    train, val = index.split("train"), index.split("val")
    assert (sorted(val.labels), len(train)) == ([0, 0, 1, 1], 8)
    assert not set(train.files) & set(val.files)
    assert "held out" in val.notes[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "0 class folders"),
        (["a/1.png"], "1 class folder, not two"),
        (["train/a/1.png", "train/b/1.png"], "no sub-folder 'val'"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/2.png", "val/c/2.png"],
            "val holds classes that .* has not: c",
        ),
        (["train/a/1.png", "train/b/1.txt", "val/a/2.png", "val/b/2.png"], "train/b holds no"),
        (["a/1.png", "a/2.png", "a/3.png", "b/1.png"], "b has 1 image, too few"),
    ],
)
def test_imagefolder_wrong_layout_is_explained(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=message) as caught:
        ImageFolder(str(tmp_path)).index()
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("layout", ["two levels", "one level"])
def test_imagefolder_two_classes_with_one_folder_are_refused(layout: str, tmp_path: Path) -> None:
    parts = ("train/", "val/") if layout == "two levels" else ("",)
    for part in parts:
        for i in range(4):
            image(tmp_path / f"{part}cat" / f"{i}.png", i)
        (tmp_path / f"{part}dog").symlink_to(tmp_path / f"{part}cat", target_is_directory=True)
    with pytest.raises(DataError, match=r"'cat' and 'dog' .* are the same folder") as caught:
        ImageFolder(str(tmp_path)).index()
    assert "\n" not in caught.value.message


def test_imagefolder_without_root_or_folder_says_what_to_set(tmp_path: Path) -> None:
    for root in (None, str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match=r"dataset\.root"):
            ImageFolder(root).index()


def test_imagefolder_imagenet_indices_must_match_the_classes(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"):
        image(tmp_path / name)
    assert ImageFolder(str(tmp_path), imagenet_indices=[3, 5]).index().imagenet_indices == (3, 5)
    with pytest.raises(DataError, match="1 imagenet_indices for 2 classes"):
        ImageFolder(str(tmp_path), imagenet_indices=[3]).index()


def test_index_split_unknown_or_empty_is_refused() -> None:
    index = DataIndex(("a",), {"train": Split((), ())})
    with pytest.raises(DataError, match="there are: train"):
        index.split("clean")
    with pytest.raises(DataError, match="holds no samples"):
        index.split("train")
