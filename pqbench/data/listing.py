"""The image files below a folder: every one once, links followed, nothing dropped in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pqbench.core.dataset import Split
from pqbench.core.errors import DataError

# What Pillow reads of those that torchvision's ImageFolder takes, in that order.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        images: Image files by extension, in the order of their paths.
        dangling: Links that lead nowhere.
        repeated: Links to folders and images that were listed already.
        others: Number of other files by extension.
    """

    images: tuple[Path, ...]
    dangling: tuple[Path, ...] = ()
    repeated: tuple[Path, ...] = ()
    others: Counter[str] | None = None


def list_images(folder: Path) -> Listing:
    """All images below a folder; linked folders are followed, each real file is taken once.

    Hidden files and folders are left out.
    """
    images: list[str] = []
    dangling: list[Path] = []
    repeated: list[Path] = []
    others: Counter[str] = Counter()
    real = folder.resolve()
    seen_folders = {real, *real.parents}  # a link upwards would list all again
    seen_files: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    linked: list[str] = []
    while waiting or linked:
        # Real folders first: what is both here and behind a link is listed where it lies.
        current = waiting.pop() if waiting else linked.pop()
        for entry in sorted(os.scandir(current), key=lambda entry: entry.name):
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_symlink() and not Path(entry.path).exists():
                dangling.append(Path(entry.path))
            elif entry.is_dir():
                target = Path(entry.path).resolve()
                if target in seen_folders:
                    repeated.append(Path(entry.path))
                    continue
                seen_folders.add(target)
                (linked if entry.is_symlink() else waiting).append(entry.path)
            elif (extension := _extension(name)) not in EXTENSIONS:
                others[extension or "no extension"] += 1
            else:
                stat = entry.stat()
                key = (stat.st_dev, stat.st_ino)
                if key in seen_files:
                    repeated.append(Path(entry.path))
                    continue
                seen_files.add(key)
                images.append(entry.path)
    # In the order of the paths below the folder, whatever separates their parts.
    images.sort(key=lambda path: path.replace(os.sep, "/"))
    return Listing(tuple(map(Path, images)), tuple(dangling), tuple(repeated), others)


def _extension(name: str) -> str:
    _, dot, last = name.rpartition(".")
    return f".{last.lower()}" if dot and last else ""


def images_below(folder: Path) -> list[Path]:
    """All image files below ``folder``, by extension, in the order of their relative paths."""
    return list(list_images(folder).images)


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders directly below ``folder``, sorted.

    Hidden ones are left out, and links back to the folder or to one above it.
    """
    real = folder.resolve()
    above = {real, *real.parents}
    return sorted(
        p.name
        for p in folder.iterdir()
        if not p.name.startswith(".")
        and p.is_dir()
        and not (p.is_symlink() and p.resolve() in above)
    )


def holds_images(folder: Path) -> bool:
    """Whether images lie directly in a folder, as in a class and not as in a split."""
    return any(p.suffix.lower() in EXTENSIONS and p.is_file() for p in folder.iterdir())


def lost_folders(folder: Path) -> list[Path]:
    """Links directly below ``folder`` that lead nowhere and are not called as images are."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_symlink() and not p.exists() and p.suffix.lower() not in EXTENSIONS
    )


def link_notes(listings: Sequence[Listing]) -> tuple[str, ...]:
    """What a record must say about links."""
    dangling = [path for listing in listings for path in listing.dangling]
    repeated = [path for listing in listings for path in listing.repeated]
    notes = []
    if dangling:
        notes.append(
            f"{len(dangling):,} links lead nowhere and were left out, the first: {dangling[0]}"
        )
    if repeated:
        notes.append(
            f"{len(repeated):,} links to what was listed already were left out, the first: "
            f"{repeated[0]}"
        )
    return tuple(notes)


def list_classes(folder: Path, classes: Sequence[str], may_lack: bool = False) -> Split:
    """The images of ``classes`` (folder names below ``folder``), class by class.

    Args:
        folder: Holds one folder per class.
        classes: Their names, in the order of the labels.
        may_lack: A class may be missing or empty; the notes say which.

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
    listings: list[Listing] = []
    lacking: list[str] = []
    for label, name in enumerate(classes):
        place = folder / name
        listing = list_images(place) if place.is_dir() else Listing(())
        listings.append(listing)
        if not listing.images:
            lacking.append(name)
            if not may_lack or listing.others:
                raise _no_image(place, listing)
        files += listing.images
        labels += [label] * len(listing.images)
    if not files:
        raise DataError(f"no class folder of {folder} holds an image ({' '.join(EXTENSIONS)})")
    notes = list(link_notes(listings))
    if lacking:
        shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        notes.append(
            f"{folder.name} has no image of {len(lacking)} of {len(classes)} classes: {shown}"
        )
    return Split(tuple(files), tuple(labels), tuple(notes))


def _no_image(place: Path, listing: Listing) -> DataError:
    if not place.is_dir():
        return DataError(
            f"class folder {place} does not exist",
            hint=f"each class needs images ({' '.join(EXTENSIONS)})",
        )
    if listing.others:
        found = ", ".join(f"{count:,} {kind}" for kind, count in listing.others.most_common(3))
        return DataError(
            f"class folder {place} holds no image that is read: it has {found}",
            hint=f"convert them; these are read: {' '.join(EXTENSIONS)}",
        )
    if listing.dangling:
        return DataError(
            f"class folder {place} holds {len(listing.dangling):,} links that lead nowhere, the "
            f"first: {listing.dangling[0]}",
            hint="is the disk that they lead to there?",
        )
    return DataError(
        f"class folder {place} holds no image",
        hint=f"each class needs images ({' '.join(EXTENSIONS)}); delete an unused class",
    )
