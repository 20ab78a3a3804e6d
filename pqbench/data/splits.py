"""Folders that hold a split, by their names: ``Training``, ``valid``, ``seg_train`` ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pqbench.data.listing import class_folders, holds_images

TRAIN = ("train", "training", "trn")
VAL = ("val", "valid", "validation", "dev")
TEST = ("test", "testing", "tst", "eval", "evaluation")
OTHER_LETTERS = re.compile(r"[^a-z]+")
SUFFIX = re.compile(r"(set|data|images?|imgs?|split|folder)$")
LEAST = 2


def by_name(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The folder that is called so, in any case of letters: ``Test``, ``test_set``.

    Args:
        folders: Where to look.
        names: What the split is called, lower case, the usual name first.
    """
    lower = {place.name.lower(): place for place in reversed(folders)}
    bare = {SUFFIX.sub("", OTHER_LETTERS.sub("", name)): place for name, place in lower.items()}
    return next((known[n] for known in (lower, bare) for n in names if n in known), None)


def by_word(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The only folder that has such a word in its name: ``seg_train``, ``flowers-test``."""
    found = [f for f in folders if set(names) & set(OTHER_LETTERS.split(f.name.lower()))]
    return found[0] if len(found) == 1 else None


def alike(one: Path, two: Path) -> bool:
    """Whether two folders hold at least two sub-folders of the same names, as splits do."""
    return len(set(class_folders(inner(one))) & set(class_folders(inner(two)))) >= LEAST


def inner(folder: Path) -> Path:
    """The folder itself, or the one in which its classes lie: archives repeat their own name.

    ``archive/archive/<class>`` gives the inner one: a folder alone in another, with several in it.
    A split alone in a folder stays there: its counterpart is missing.
    """
    current = folder
    while len(names := class_folders(current)) == 1 and not holds_images(current):
        alone = current / names[0]
        if len(class_folders(alone)) < LEAST:
            break
        split = by_name([alone], (*TRAIN, *VAL, *TEST)) is not None
        if split and current.name.lower() != alone.name.lower():
            break
        current = alone
    return current
