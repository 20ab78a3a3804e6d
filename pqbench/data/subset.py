"""Which samples of a split are prepared: a limit, and nothing that is scored elsewhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pqbench.core.dataset import DataIndex, Sample, Split
from pqbench.core.errors import ConfigError, DataError

LIMITED = "limit"  # begins the note of a split that was cut


def sample_name(file: Path) -> str:
    """A sample's name without the machine's folders: its own folder and file name."""
    return "/".join(file.parts[-2:])


def stratified_subset(
    names: Sequence[str], labels: Sequence[int], count: int, seed: int
) -> list[int]:
    """Choose ``count`` samples, the same share of each class, by a hash of name and seed.

    Args:
        names: One name per sample.
        labels: One class index per sample.
        count: How many; all of them where there are fewer.
        seed: Any integer.

    Returns:
        Sorted indices. A larger ``count`` with the same seed contains the smaller choice.
    """
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    rank: dict[int, tuple[float, bytes]] = {}
    for members in groups.values():
        keyed = sorted(
            (hashlib.sha256(f"{seed}:{names[i]}".encode(errors="surrogateescape")).digest(), i)
            for i in members
        )
        for position, (key, index) in enumerate(keyed):
            rank[index] = ((position + 0.5) / len(keyed), key)
    return sorted(sorted(rank, key=lambda i: (*rank[i], i))[:count])


def content_key(sample: Sample) -> str:
    """SHA-256 of a sample in memory: a text without its outer spaces, or an image's values."""
    if isinstance(sample, str):
        return hashlib.sha256(sample.strip().encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(sample).tobytes()).hexdigest()


def _identities(split: Split) -> list[object]:
    """What makes a sample the same as another: its file, or in memory its content."""
    return list(split.files if split.samples is None else map(content_key, split.samples))


def _copies(split: Split, kept: Sequence[int], other: Split) -> set[int]:
    """Which of ``kept`` are files with the content of one of ``other``'s.

    Only files of equal size are read.
    """
    if split.samples is not None or other.samples is not None:
        return set()
    theirs: dict[int, list[Path]] = {}
    for file in other.files:
        theirs.setdefault(_size(file), []).append(file)
    known: dict[Path, str] = {}

    def content(file: Path) -> str:
        if file not in known:
            known[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        return known[file]

    found: set[int] = set()
    for i in kept:
        alike = theirs.get(_size(split.files[i]), ())
        if alike and content(split.files[i]) in {content(file) for file in alike}:
            found.add(i)
    return found


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def without(split: Split, name: str, other: Split, other_name: str) -> Split:
    """``split`` without the samples that are also in ``other``, with notes that say how many.

    The same files are left out, and copies of them under another name or in another class.
    """
    theirs = set(_identities(other))
    kept = [i for i, identity in enumerate(_identities(split)) if identity not in theirs]
    gone = len(split) - len(kept)
    notes = list(split.notes)
    if gone:
        notes.append(f"{gone:,} samples left out of '{name}': they are scored as '{other_name}'")
    copies = _copies(split, kept, other)
    if copies:
        first = sample_name(split.files[min(copies)])
        notes.append(
            f"{len(copies):,} samples left out of '{name}': copies of samples scored as "
            f"'{other_name}', the first: {first}"
        )
        kept = [i for i in kept if i not in copies]
    if len(kept) == len(split):
        return split
    if not kept:
        raise DataError(f"split '{name}' is empty without the samples of split '{other_name}'")
    return split.take(kept, tuple(notes))


def choose(
    index: DataIndex, name: str, exclude: Sequence[str], limit: int | None, seed: int
) -> tuple[Split, tuple[str, ...]]:
    """The samples of a split that are wanted, and what a record must say about the choice.

    Args:
        index: The data set.
        name: Name of the split.
        exclude: Names of the splits that are scored: their samples are left out.
        limit: At most so many, the same share of each class; None takes all.
        seed: Seeds that choice.

    Raises:
        ConfigError: ``limit`` is below 1.
        DataError: The split is missing or empty.
    """
    split = index.split(name)
    for other in exclude:
        split = without(split, name, index.split(other), other)
    notes = (*index.notes, *split.notes)
    if limit is None or limit >= len(split):
        return split, notes
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    names = [sample_name(file) for file in split.files]
    chosen = stratified_subset(names, split.labels, limit, seed)
    note = (
        f"{LIMITED}: {limit:,} of {len(split):,} samples, equal share of each class (seed {seed})"
    )
    return split.take(chosen), (*notes, note)
