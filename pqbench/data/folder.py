"""Images in one folder per class: a user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import DataError
from pqbench.data.stratify import stratified_split

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders directly below ``folder``, sorted; hidden ones are left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def images_below(folder: Path) -> list[Path]:
    """All image files below ``folder``, by extension, in the order of their relative paths."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
    visible = [p for p in found if not p.name.startswith(".")]
    return sorted(visible, key=lambda p: p.relative_to(folder).as_posix())


def list_classes(folder: Path, classes: Sequence[str]) -> Split:
    """The images of ``classes`` (folder names below ``folder``), class by class.

    Raises:
        DataError: A class folder is missing or holds no image, or two classes are one folder.
    """
    seen: dict[Path, str] = {}
    for name in classes:
        first = seen.setdefault((folder / name).resolve(), name)
        if first != name:
            raise DataError(
                f"classes '{first}' and '{name}' of {folder} are the same folder, by a link",
                hint="each class needs a folder of its own: remove the link, or one of the names",
            )
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = images_below(folder / name) if (folder / name).is_dir() else []
        if not found:
            what = "holds no image" if (folder / name).is_dir() else "does not exist"
            raise DataError(
                f"class folder {folder / name} {what}",
                hint=f"each class needs images ({' '.join(EXTENSIONS)}); delete an unused class",
            )
        files += found
        labels += [label] * len(found)
    return Split(tuple(files), tuple(labels))


class ImageFolder(Dataset):
    """A user's own images: ``root/train/<class>/`` and ``root/val/<class>/``.

    Where there is only one level (``root/<class>/``), a share of each class is held out as the
    scored split, chosen by a hash of the relative path: it stays the same on every machine.

    Args:
        root: The folder.
        train: Name of the sub-folder for fitting and calibration.
        val: Name of the sub-folder that is scored.
        held_out: Share of each class held out where there is only one level, in (0, 1).
        seed: Seeds that choice.
        imagenet_indices: For classes of ImageNet-1k: each class's index in a 1000-way output, in
            the order of the sorted folder names.
    """

    def __init__(
        self,
        root: str | None,
        train: str = "train",
        val: str = "val",
        held_out: float = 0.25,
        seed: int = 0,
        imagenet_indices: Sequence[int] | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.train = train
        self.val = val
        self.held_out = held_out
        self.seed = seed
        self.imagenet_indices = None if imagenet_indices is None else tuple(imagenet_indices)

    @property
    def layout(self) -> str:
        """The layout expected, for messages."""
        return (
            f"expected <root>/{self.train}/<class>/*.jpg and <root>/{self.val}/<class>/*.jpg, "
            "or <root>/<class>/*.jpg alone; set dataset.root"
        )

    def index(self) -> DataIndex:
        """List the files of both splits.

        Raises:
            DataError: The folder is missing, has another layout, or a class is empty.
        """
        if self.root is None:
            raise DataError("data set 'imagefolder' needs a folder", hint=self.layout)
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}", hint=self.layout)
        parts = [(self.root / name).is_dir() for name in (self.train, self.val)]
        if any(parts) and not all(parts):
            missing = self.val if parts[0] else self.train
            raise DataError(f"{self.root} has no sub-folder '{missing}'", hint=self.layout)
        splits = self._two_levels() if all(parts) else self._one_level()
        classes = tuple(class_folders(self.root / self.train if all(parts) else self.root))
        if self.imagenet_indices is not None and len(self.imagenet_indices) != len(classes):
            raise DataError(
                f"{len(self.imagenet_indices)} imagenet_indices for {len(classes)} classes"
            )
        return DataIndex(classes, splits, self.imagenet_indices)

    def _classes(self, folder: Path) -> list[str]:
        classes = class_folders(folder)
        if len(classes) < 2:
            raise DataError(f"{folder} has {len(classes)} class folders, not two", self.layout)
        return classes

    def _two_levels(self) -> dict[str, Split]:
        assert self.root is not None
        train, val = self.root / self.train, self.root / self.val
        classes = self._classes(train)
        if odd := sorted(set(classes) ^ set(class_folders(val))):
            raise DataError(
                f"{train} and {val} hold different classes: {', '.join(odd[:3])}",
                hint="both need the same class folders",
            )
        return {"train": list_classes(train, classes), "val": list_classes(val, classes)}

    def _one_level(self) -> dict[str, Split]:
        assert self.root is not None
        classes = self._classes(self.root)
        everything = list_classes(self.root, classes)
        keys = [file.relative_to(self.root).as_posix() for file in everything.files]
        parts = stratified_split(keys, everything.labels, self.held_out, self.seed)
        for part in parts:
            present = {everything.labels[i] for i in part}
            for label, name in enumerate(classes):
                if label not in present:
                    raise DataError(
                        f"class folder {self.root / name} has {everything.labels.count(label)} "
                        f"images, too few to hold out {self.held_out:.0%} of them",
                        hint="add images, or make the two splits yourself",
                    )
        note = f"{self.held_out:.0%} of each class held out by a hash of the path"
        return {
            name: Split(
                tuple(everything.files[i] for i in part),
                tuple(everything.labels[i] for i in part),
                (f"{note} (seed {self.seed})",),
            )
            for name, part in zip(("train", "val"), parts, strict=True)
        }
