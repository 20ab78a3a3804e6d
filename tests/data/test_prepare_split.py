"""Prepared splits: pixels, labels, notes, and what unreadable images do."""

from __future__ import annotations

import collections
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.core.preprocess import OnError, PreprocessSettings
from pqbench.core.split import PreparedSplit
from pqbench.data.elpv import Elpv
from pqbench.data.imagenette import Imagenette
from pqbench.data.prepare import assert_disjoint, prepare
from pqbench.data.preprocess import Preprocess, decode, to_pixels
from pqbench.data.subset import stratified_subset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = Preprocess(20, 16, "bilinear", MEAN, STD)


class Listed(Dataset):
    """A data set made of given splits."""

    def __init__(self, notes: tuple[str, ...] = (), **splits: Split) -> None:
        self.value = DataIndex(("even", "odd"), splits, notes=notes)

    def index(self) -> DataIndex:
        return self.value


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Six noise images of different content and size."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(6):
        pixels = rng.integers(0, 256, (30 + i, 41, 3), np.uint8)
        out.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(out[-1])
    return out


def split_of(files: list[Path]) -> Split:
    return Split(tuple(files), tuple(i % 2 for i in range(len(files))))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(500, 375), (333, 500), (64, 64), (65, 97), (300, 300)])
def test_to_pixels_crop_equals_torchvision(interpolation: str, size: tuple[int, int]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    rng = np.random.default_rng(size[0])
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    ours = to_pixels(image, Preprocess(64, 57, interpolation, MEAN, STD))
    resized = tv.resize(image, [64], InterpolationMode(interpolation))
    np.testing.assert_array_equal(ours, np.asarray(tv.center_crop(resized, [57])))


def test_decode_squash_equals_how_the_bundled_checkpoint_was_trained() -> None:
    pytest.importorskip("elpv_dataset")
    file = Elpv().index().split("val").files[5]
    with Image.open(file) as image:
        trained = np.asarray(image.convert("L").resize((224, 224), Image.Resampling.BILINEAR))
    squash = Preprocess(232, 224, "bilinear", MEAN, STD, mode="squash")
    pixels = decode(file.read_bytes(), file, squash)
    np.testing.assert_array_equal(pixels, np.repeat(trained[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_decode_gives_rgb_for_every_eight_bit_mode(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 100, 50)).convert(mode).save(buffer, "TIFF")
    pixels = decode(buffer.getvalue(), Path("x.tif"), SMALL)
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)


def test_decode_refuses_sixteen_bits_rather_than_clip(tmp_path: Path) -> None:
    Image.fromarray(np.full((30, 30), 40_000, np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        decode((tmp_path / "x.png").read_bytes(), tmp_path / "x.png", SMALL)


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": "nearest"},
        {"mode": "pad"},
        {"crop": 21},
        {"crop": 0},
        {"mean": (0.5,)},
        {"std": (0.0, 1.0, 1.0)},
    ],
)
def test_preprocess_impossible_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_preprocess_from_config_takes_lists() -> None:
    config = {"resize": 20, "crop": 16, "interpolation": "bilinear"}
    config |= {"mean": list(MEAN), "std": list(STD)}
    assert Preprocess.of(PreprocessSettings(**config)) == SMALL


def test_prepare_writes_pixels_labels_and_manifest(files: list[Path], tmp_path: Path) -> None:
    data = Listed(("licence",), val=replace(split_of(files), notes=("leak",)))
    prepared = prepare(data, "val", SMALL, tmp_path / "out", input_name="image")
    assert prepared == PreparedSplit.load(tmp_path / "out")
    assert (prepared.name, prepared.count, prepared.classes) == ("val", 6, ("even", "odd"))
    assert prepared.notes == ("licence", "leak")
    assert prepared.labels().tolist() == [0, 1, 0, 1, 0, 1]
    for i, file in enumerate(files):
        expected = decode(file.read_bytes(), file, SMALL)
        np.testing.assert_array_equal(prepared.stored("image")[i], expected)
    batch = prepared.feed([2])["image"]
    reference = (prepared.stored("image")[2] / 255 - MEAN) / STD
    np.testing.assert_allclose(batch[0], reference.transpose(2, 0, 1), atol=1e-5)
    assert len({p.name for p in (tmp_path / "out").iterdir()}) == 3  # nothing left aside


def test_prepare_content_depends_on_pixels_labels_and_settings(
    files: list[Path], tmp_path: Path
) -> None:
    def content(split: Split, preprocess: Preprocess, threads: int = 1) -> str:
        data = Listed(val=split)
        return prepare(data, "val", preprocess, tmp_path / "out", threads=threads).content

    base = content(split_of(files), SMALL)
    assert content(split_of(files), SMALL, threads=4) == base
    assert content(Split(tuple(files), (1,) * 6), SMALL) != base
    assert content(split_of(files[::-1]), SMALL) != base
    assert content(split_of(files), replace(SMALL, mode="squash")) != base
    assert content(split_of(files), replace(SMALL, std=(1.0, 1.0, 1.0))) != base


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "missing"])
def test_prepare_unreadable_image_is_named_or_skipped(
    damage: str, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    Image.effect_noise((64, 64), 50).save(broken)
    content = broken.read_bytes()
    broken.write_bytes(
        {"truncated": content[: len(content) // 2], "text": b"hello"}.get(damage, b"")
    )
    if damage == "missing":
        broken.unlink()
    data = Listed(val=split_of([files[0], broken, *files[1:]]))
    with pytest.raises(DataError, match=r"cannot read image .*broken\.jpg"):
        prepare(data, "val", SMALL, tmp_path / "fail")
    assert not list((tmp_path / "fail").iterdir())  # nothing half done
    prepared = prepare(data, "val", SMALL, tmp_path / "skip", on_error=OnError.skip)
    assert prepared.count == len(prepared.sources) == len(prepared.stored("input")) == 6
    assert prepared.labels().tolist() == [0, 0, 1, 0, 1, 0]
    assert "1 of 7 images skipped" in prepared.notes[0]
    assert "broken.jpg" in prepared.notes[0]
    expected = decode(files[1].read_bytes(), files[1], SMALL)
    np.testing.assert_array_equal(prepared.stored("input")[1], expected)


def test_prepare_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    data = Listed(val=split_of([tmp_path / "a.png"]))
    with pytest.raises(DataError, match="none of 1 images"):
        prepare(data, "val", SMALL, tmp_path / "out", on_error=OnError.skip)


def test_prepare_failure_does_not_leave_an_older_manifest(
    files: list[Path], tmp_path: Path
) -> None:
    prepare(Listed(val=split_of(files)), "val", SMALL, tmp_path / "out")
    files[3].write_bytes(b"")
    with pytest.raises(DataError):
        prepare(Listed(val=split_of(files)), "val", SMALL, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_prepare_limit_is_stratified_seeded_and_noted(files: list[Path], tmp_path: Path) -> None:
    data = Listed(val=split_of(files))
    chosen = [prepare(data, "val", SMALL, tmp_path / f"{s}", limit=2, seed=s) for s in (0, 0, 1, 2)]
    assert all(sorted(p.labels().tolist()) == [0, 1] for p in chosen)
    assert chosen[0].content == chosen[1].content
    assert len({p.content for p in chosen}) > 1
    assert "limit: 2 of 6 samples" in chosen[0].notes[0]
    assert not prepare(data, "val", SMALL, tmp_path / "all", limit=6).notes
    with pytest.raises(ConfigError, match="at least 1"):
        prepare(data, "val", SMALL, tmp_path / "none", limit=0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_stratified_subset_keeps_shares_and_nests(labels, count, seed) -> None:  # type: ignore[no-untyped-def]
    names = [f"n{i}" for i in range(len(labels))]
    chosen = stratified_subset(names, labels, count, seed)
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    assert set(chosen) <= set(stratified_subset(names, labels, count + 1, seed))
    have = collections.Counter(labels[i] for i in chosen)
    for label, size in collections.Counter(labels).items():
        assert abs(have[label] - size * len(chosen) / len(labels)) <= 2


def test_prepare_exclude_leaves_the_scored_images_out(files: list[Path], tmp_path: Path) -> None:
    data = Listed(train=split_of(files), clean=split_of(files[4:]))
    clean = prepare(data, "clean", SMALL, tmp_path / "clean")
    train = prepare(data, "train", SMALL, tmp_path / "train", exclude=["clean"])
    assert (train.count, train.labels().tolist()) == (4, [0, 1, 0, 1])
    assert "2 samples left out of 'train'" in train.notes[0]
    assert_disjoint(train, clean)
    with pytest.raises(DataError, match="is empty without"):
        prepare(data, "clean", SMALL, tmp_path / "x", exclude=["train"])


def test_assert_disjoint_finds_a_copy_under_another_name(files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "cats" / "copy.png"
    copy.parent.mkdir()
    copy.write_bytes(files[0].read_bytes())
    data = Listed(train=split_of(files[:3]), val=split_of([files[5], copy]))
    train = prepare(data, "train", SMALL, tmp_path / "train")
    val = prepare(data, "val", SMALL, tmp_path / "val")
    with pytest.raises(DataError, match=r"1 samples are in both .*cats/copy\.png"):
        assert_disjoint(val, train)


def test_prepare_real_images_of_the_clean_split(test_data: Path, tmp_path: Path) -> None:
    data = Imagenette(str(test_data / "imagenette2-224"))
    preprocess = Preprocess(256, 224, "bicubic", MEAN, STD)
    clean = prepare(data, "clean", preprocess, tmp_path / "clean", limit=20)
    train = prepare(data, "train", preprocess, tmp_path / "train", limit=20, exclude=["clean"])
    assert_disjoint(train, clean)
    assert sorted(np.bincount(clean.labels(), minlength=10).tolist()) == [2] * 10
    assert clean.feed(slice(0, 4))["input"].shape == (4, 3, 224, 224)
    assert "366 samples left out" in " ".join(train.notes)


def test_take_gives_the_same_share_of_each_class_and_less_of_more(
    files: list[Path], tmp_path: Path
) -> None:
    whole = prepare(Listed(val=split_of(files)), "val", SMALL, tmp_path / "out", input_name="image")
    for count in (2, 4, 9):
        (tmp_path / str(count)).mkdir()
    two, four, all_of_it = (whole.take(n, tmp_path / str(n)) for n in (2, 4, 9))
    assert sorted(two.labels().tolist()) == [0, 1]
    assert set(two.sources) < set(four.sources) < set(whole.sources)
    place = whole.sources.index(two.sources[1])
    np.testing.assert_array_equal(two.feed([1])["image"], whole.feed([place])["image"])
    assert two.notes[-1] == "scored: 2 of 6 samples"
    assert len({whole.content, two.content, four.content}) == 3
    assert all_of_it.sources == whole.sources
