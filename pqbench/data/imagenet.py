"""ImageNet-1k and its 1000-class subset ImageNet-mini, one folder per class.

ImageNet (https://image-net.org, non-commercial research and education) cannot be downloaded without
an account, so pqbench never tries: see ``data/README.md``. ImageNet-mini is Kaggle's
``ifigotin/imagenetmini-1000``, 34,745 + 3,923 images; its ``val`` holds ImageNet validation images.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import DataError
from pqbench.data.listing import class_folders, list_classes

CLASSES = 1000
INNER = ("", "imagenet-mini", "ILSVRC/Data/CLS-LOC")


class ImageNet(Dataset):
    """``root/train/<wnid>/*.JPEG`` and ``root/val/<wnid>/*.JPEG`` with all 1000 classes.

    The wnids in alphabetical order are ImageNet's class indices, as everywhere. ``train`` may be
    missing where nothing is trained or calibrated.

    Args:
        root: The folder, or the one that Kaggle's archive unpacks to. None asks ``kagglehub``
            where ``kaggle`` names a data set and that package is installed.
        kaggle: Kaggle's name of the data set.
    """

    by_names: ClassVar[bool] = True

    def __init__(self, root: str | None = None, kaggle: str | None = None) -> None:
        self.root = Path(root) if root is not None else None
        self.kaggle = kaggle

    def locate(self) -> Path:
        """The folder that holds ``val``.

        Raises:
            DataError: It is not given, or holds something else.
        """
        root = self.root or self._from_kaggle()
        for inner in INNER:
            if (root / inner / "val").is_dir():
                return root / inner
        raise DataError(
            f"dataset.root {root} {'has no val/' if root.is_dir() else 'does not exist'}",
            hint="expected there: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, 1000 wnids each",
        )

    def _from_kaggle(self) -> Path:
        by_hand = "get it by hand and set dataset.root: see data/README.md"
        if self.kaggle is None:
            raise DataError("ImageNet needs its folder: it has no free download", hint=by_hand)
        try:
            kagglehub = importlib.import_module("kagglehub")
        except ImportError as error:
            raise DataError(
                f"Kaggle's data set {self.kaggle} is not here and kagglehub is not installed",
                hint=f"pip install kagglehub (it asks for your Kaggle account), or {by_hand}",
            ) from error
        try:
            return Path(kagglehub.dataset_download(self.kaggle))
        except Exception as error:  # kagglehub's errors share no base class
            first = str(error).strip().splitlines()[0][:300] if str(error) else type(error).__name__
            raise DataError(f"kagglehub cannot get {self.kaggle}: {first}", hint=by_hand) from error

    def index(self) -> DataIndex:
        """List the files.

        Raises:
            DataError: The folder is missing, or does not hold the 1000 classes.
        """
        root = self.locate()
        wnids = class_folders(root / "val")
        if len(wnids) != CLASSES:
            raise DataError(
                f"{root / 'val'} has {len(wnids)} class folders, ImageNet has {CLASSES}",
                hint="val/ must be sorted into one folder per wnid; for some of ImageNet's classes "
                "use dataset=imagefolder with dataset.source.imagenet_indices",
            )
        splits: dict[str, Split] = {"val": list_classes(root / "val", wnids)}
        if (root / "train").is_dir():
            splits["train"] = list_classes(root / "train", wnids)
        return DataIndex(tuple(wnids), splits, imagenet_indices=tuple(range(CLASSES)))
