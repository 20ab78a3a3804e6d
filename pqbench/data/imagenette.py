"""Imagenette v2: ten classes of ImageNet-1k, 9,469 + 3,925 images, by fastai.

Source: https://github.com/fastai/imagenette (the list of images Apache-2.0; the images themselves
are ImageNet's: non-commercial research and education only).

fastai's split is not ImageNet's. Of the 3,925 images in ``val`` only the 134 whose name begins
``ILSVRC2012_val_`` are ImageNet validation images; the others were in the training set of every
ImageNet-pretrained model. 366 more validation images lie in fastai's ``train``. So there is a
third split, ``clean``: the 500 validation images of both. Where it is scored, ``prepare`` leaves
its images out of ``train`` (argument ``exclude``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pqbench.assets.download import Remote
from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.data.archive import obtain
from pqbench.data.listing import list_classes

CLASSES = {
    "n01440764": ("tench", 0),
    "n02102040": ("English springer", 217),
    "n02979186": ("cassette player", 482),
    "n03000684": ("chain saw", 491),
    "n03028079": ("church", 497),
    "n03394916": ("French horn", 566),
    "n03417042": ("garbage truck", 569),
    "n03425413": ("gas pump", 571),
    "n03445777": ("golf ball", 574),
    "n03888257": ("parachute", 701),
}
CLEAN_PREFIX = "ILSVRC2012_val_"
BASE_URL = "https://s3.amazonaws.com/fast-ai-imageclas"
# Folder name, SHA-256 and size of the archives, as TensorFlow Datasets lists them in
# tensorflow_datasets/datasets/imagenette/checksums.tsv.
ARCHIVES = {
    "160": (
        "imagenette2-160",
        "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
        99_003_388,
    ),
    "320": (
        "imagenette2-320",
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
        341_663_724,
    ),
    "full": (
        "imagenette2",
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
        1_557_161_267,
    ),
}
Archives = Mapping[str, tuple[str, str, int]]


class Imagenette(Dataset):
    """Imagenette v2 with ImageNet's class indices; splits ``train``, ``val`` and ``clean``.

    Args:
        root: Folder with ``train/`` and ``val/``. None: ``imagenette2-320`` (or ``-160``, or
            ``imagenette2``) below ``home``, downloaded if it is not there.
        variant: ``160``, ``320`` (shorter side in px) or ``full``.
        home: Where data sets live, relative to the current folder.
        mirror: URL of the folder that holds the archives; None takes fastai's.

    Attributes:
        title: The data set's name, for messages.
        wnids: ImageNet's id of each class: its name and its index in a 1000-way output.
        archives: By variant: folder name, SHA-256 and size of the archive in bytes.
    """

    by_names: ClassVar[bool] = True
    title: ClassVar[str] = "Imagenette"
    wnids: ClassVar[Mapping[str, tuple[str, int]]] = CLASSES
    archives: ClassVar[Archives] = ARCHIVES

    def __init__(
        self,
        root: str | None = None,
        variant: str = "320",
        home: str = "data",
        mirror: str | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.variant = str(variant)
        self.home = Path(home)
        self.mirror = mirror or BASE_URL

    def locate(self) -> Path:
        """The data set's folder; downloads and unpacks it where ``root`` is None and it is missing.

        Raises:
            ConfigError: There is no such variant.
            DataError: The folder is wrong, or the download failed.
        """
        if self.root is not None:
            if not (self.root / "train").is_dir() or not (self.root / "val").is_dir():
                what = "has no train/ and val/" if self.root.is_dir() else "does not exist"
                first, *_, last = self.wnids
                raise DataError(
                    f"dataset.root {self.root} {what}",
                    hint="expected there: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG for the ten "
                    f"wnids {first} ... {last}",
                )
            return self.root
        if self.variant not in self.archives:
            raise ConfigError(
                f"no {self.title} variant '{self.variant}'",
                hint=f"choose from {', '.join(self.archives)}",
            )
        name, sha256, size = self.archives[self.variant]
        return obtain(
            Remote(f"{self.mirror}/{name}.tgz", sha256, size),
            self.home / name,
            self.home / f"{name}.tgz",
            offline="offline, dataset=elpv works",
        )

    def index(self) -> DataIndex:
        """List the files of the three splits.

        Raises:
            ConfigError: There is no such variant.
            DataError: The data set is missing and cannot be had, or a class folder is empty.
        """
        root = self.locate()
        train, val = (list_classes(root / name, tuple(self.wnids)) for name in ("train", "val"))
        both = zip(train.files + val.files, train.labels + val.labels, strict=True)
        clean = [(file, label) for file, label in both if file.name.startswith(CLEAN_PREFIX)]
        leaked = sum(not file.name.startswith(CLEAN_PREFIX) for file in val.files)
        splits = {
            "train": train,
            "val": Split(
                val.files,
                val.labels,
                (
                    f"{leaked:,} of the {len(val):,} {self.title} val images are ImageNet training "
                    "images: accuracy of an ImageNet-pretrained model is optimistic on them; "
                    "dataset.split=clean has none",
                ),
            ),
            "clean": Split(
                tuple(file for file, _ in clean),
                tuple(label for _, label in clean),
                (f"{len(clean):,} ImageNet validation images from both of fastai's splits",),
            ),
        }
        return DataIndex(
            classes=tuple(name for name, _ in self.wnids.values()),
            splits=splits,
            imagenet_indices=tuple(index for _, index in self.wnids.values()),
        )
