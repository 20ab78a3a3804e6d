"""Images in one folder per class: a user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pqbench.core.dataset import DataIndex, Dataset, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.data.listing import class_folders, holds_images, list_classes, lost_folders
from pqbench.data.splits import TEST, TRAIN, VAL, alike, by_name, by_word, inner
from pqbench.data.stratify import stratified_split

LEAST = 2


@dataclass(frozen=True)
class _Layout:
    """Sub-folders that are splits; None where there is one level of class folders."""

    train: Path | None = None
    val: Path | None = None
    test: Path | None = None


class ImageFolder(Dataset):
    """A user's own images: ``root/train/<class>/`` and ``root/val/<class>/``.

    Other names of splits (``Training``, ``valid``, ``test`` ...) are known in any case of letters;
    ``test`` is scored where there is no ``val``. Where there is only one level
    (``root/<class>/``), a share of each class is held out as the scored split, chosen by a hash of
    the relative path: it stays the same on every machine.

    Args:
        root: The folder.
        train: Name of the sub-folder for fitting and calibration.
        val: Name of the sub-folder that is scored.
        held_out: Share of each class held out where there is only one level, in (0, 1).
        seed: Seeds that choice.
        imagenet_indices: For classes of ImageNet-1k: each class's index in a 1000-way output, in
            the order of the classes.
        classes: Names of the class folders in the order of the model's outputs: a list, or the path
            of a text file with one name a line. None sorts them, as torchvision does.
    """

    by_names: ClassVar[bool] = True

    def __init__(
        self,
        root: str | None,
        train: str = "train",
        val: str = "val",
        held_out: float = 0.25,
        seed: int = 0,
        imagenet_indices: Sequence[int] | None = None,
        classes: Sequence[Any] | str | None = None,
    ) -> None:
        self.root = Path(root) if root is not None else None
        self.train = train
        self.val = val
        self.held_out = held_out
        self.seed = seed
        self.imagenet_indices = None if imagenet_indices is None else tuple(imagenet_indices)
        self.classes = classes

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
            ConfigError: ``classes`` are not those of the folders.
            DataError: The folder is missing, has another layout, or a class is empty.
        """
        if self.root is None:
            raise DataError("data set 'imagefolder' needs a folder", hint=self.layout)
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}", hint=self.layout)
        root = inner(self.root)
        found = self._find_splits(root)
        if found.train is None:
            classes = self._ordered(self._classes(root))
            splits = self._one_level(root, classes)
        else:
            classes = self._ordered(self._classes(found.train))
            splits = self._two_levels(found, classes)
        if self.imagenet_indices is not None and len(self.imagenet_indices) != len(classes):
            raise DataError(
                f"{len(self.imagenet_indices)} imagenet_indices for {len(classes)} classes"
            )
        return DataIndex(tuple(classes), splits, self.imagenet_indices, notes=self._notes(found))

    def _find_splits(self, root: Path) -> _Layout:
        """Which sub-folders are splits, by the names given and by those in use.

        Raises:
            DataError: A split has no counterpart, or sub-folders that no split is called are alike.
        """
        places = {name: root / name for name in class_folders(root)}
        folders = list(places.values())

        def first(given: str, names: Sequence[str]) -> Path | None:
            known = places.get(given) or by_name(folders, names)
            # A folder of images is a class, whatever its name: trains have been photographed.
            return inner(known) if known is not None and not holds_images(known) else None

        train = first(self.train, TRAIN)
        val, test = first(self.val, VAL), first("test", TEST)
        if train is val is test is None:
            train, val, test = (by_word(folders, names) for names in (TRAIN, VAL, TEST))
            scored = val or test
            if train is None or scored is None or not alike(train, scored):
                train = val = test = None
            train, val, test = (p and inner(p) for p in (train, val, test))
        if train is not None and (val or test) is not None:
            return _Layout(train, val or test, test if val is not None else None)
        if train is None and val is None and (test is None or len(places) > LEAST):
            self._refuse_unknown_splits(root, places)
            return _Layout()
        missing = self.val if train is not None else self.train
        raise DataError(f"{root} has no sub-folder '{missing}'", hint=self.layout)

    def _refuse_unknown_splits(self, root: Path, places: dict[str, Path]) -> None:
        """Sub-folders that all hold the same sub-folders of images are splits, not classes."""
        if self.classes is not None:  # the user says that they are classes
            return
        inside = [set(class_folders(place)) for place in places.values()]
        common = set.intersection(*inside) if len(inside) >= LEAST else set()
        if len(common) >= LEAST and not any(holds_images(place) for place in places.values()):
            one, two = list(places)[:2]
            raise DataError(
                f"{root}/{{{','.join(places)}}} hold the same sub-folders "
                f"({', '.join(sorted(common)[:3])} ...): they are splits, not classes",
                hint=f"say which is which: dataset.source.train={one} dataset.source.val={two}; "
                f"if they are classes all the same: dataset.classes=[{','.join(places)}]",
            )

    def _notes(self, found: _Layout) -> tuple[str, ...]:
        if found.train is None or found.val is None:
            return ()
        if (found.train.name, found.val.name) == (self.train, self.val):
            return ()
        return (
            f"sub-folder '{found.train.name}' was taken as the train split, "
            f"'{found.val.name}' as the scored one",
        )

    def _ordered(self, folders: list[str]) -> list[str]:
        if self.classes is None:
            return folders
        if isinstance(self.classes, str):
            path = Path(self.classes)
            if not path.is_file():
                raise ConfigError(
                    f"dataset.classes={path}: there is no such file",
                    hint="give a list, dataset.classes=[cat,dog], or a text file, one name a line",
                )
            lines = path.read_text(encoding="utf-8").splitlines()
            names = [line.strip() for line in lines if line.strip()]
        else:
            names = [str(name) for name in self.classes]
        if len(set(names)) != len(names) or set(names) != set(folders):
            odd = sorted(set(names) ^ set(folders)) or names
            raise ConfigError(
                f"dataset.classes and the class folders differ: {', '.join(odd[:5])}",
                hint=f"the folders are {', '.join(folders[:10])}"
                f"{', ...' if len(folders) > 10 else ''}",
            )
        return names

    def _classes(self, folder: Path) -> list[str]:
        classes = class_folders(folder)
        if lost := lost_folders(folder):
            raise DataError(
                f"{lost[0]} is a link that leads nowhere",
                hint="is the disk that it leads to there? remove the link if the class is not used",
            )
        if len(classes) < LEAST:
            raise DataError(
                f"{folder} has {len(classes)} class folder{'' if len(classes) == 1 else 's'}, not "
                "two",
                self.layout,
            )
        return classes

    def _two_levels(self, found: _Layout, classes: list[str]) -> dict[str, Split]:
        assert found.train is not None
        assert found.val is not None
        splits = {"train": list_classes(found.train, classes)}
        for name, place in (("val", found.val), ("test", found.test)):
            if place is None:
                continue
            if odd := sorted(set(class_folders(place)) - set(classes)):
                if name == "test":  # it is not scored, unless asked for
                    continue
                raise DataError(
                    f"{place} holds classes that {found.train} has not: {', '.join(odd[:3])}",
                    hint="the model cannot know them: move them, or add their training images",
                )
            splits[name] = list_classes(place, classes, may_lack=True)
        return splits

    def _one_level(self, root: Path, classes: list[str]) -> dict[str, Split]:
        everything = list_classes(root, classes)
        keys = [file.relative_to(root).as_posix() for file in everything.files]
        parts = stratified_split(keys, everything.labels, self.held_out, self.seed)
        for part in parts:
            present = {everything.labels[i] for i in part}
            for label, name in enumerate(classes):
                if label not in present:
                    count = everything.labels.count(label)
                    raise DataError(
                        f"class folder {root / name} has {count} image{'s'[: count != 1]}, too few "
                        f"to hold out {self.held_out:.0%} of them and train on the rest",
                        hint="add images, set dataset.source.held_out=0.5, or make the two splits "
                        "yourself",
                    )
        note = (
            f"{self.held_out:.0%} of each class held out by a hash of the path: a checkpoint "
            "trained elsewhere may have seen these images"
        )
        return {
            name: everything.take(part, (*everything.notes, f"{note} (seed {self.seed})"))
            for name, part in zip(("train", "val"), parts, strict=True)
        }
