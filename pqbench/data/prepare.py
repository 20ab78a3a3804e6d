"""Decode a split once into the folder that :class:`pqbench.inputs.PreparedSplit` reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pqbench.artifact import write_json
from pqbench.data.base import Dataset, Split
from pqbench.data.preprocess import Preprocess, decode
from pqbench.errors import ConfigError, DataError
from pqbench.inputs import MANIFEST, PreparedSplit

__all__ = ["OnError", "Preprocess", "assert_disjoint", "prepare", "stratified_subset"]

OnError = Literal["fail", "skip"]
CHUNK = 128


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
        keyed = sorted((hashlib.sha256(f"{seed}:{names[i]}".encode()).digest(), i) for i in members)
        for position, (key, index) in enumerate(keyed):
            rank[index] = ((position + 0.5) / len(keyed), key)
    return sorted(sorted(rank, key=lambda i: (*rank[i], i))[:count])


def without(split: Split, name: str, other: Split, other_name: str) -> Split:
    """``split`` without the files that are also in ``other``, with a note that says how many."""
    theirs = set(other.files)
    kept = [i for i, file in enumerate(split.files) if file not in theirs]
    gone = len(split) - len(kept)
    if not gone:
        return split
    if not kept:
        raise DataError(f"split '{name}' is empty without the images of split '{other_name}'")
    note = f"{gone:,} images left out of '{name}': they are scored as '{other_name}'"
    files = tuple(split.files[i] for i in kept)
    return Split(files, tuple(split.labels[i] for i in kept), (*split.notes, note))


def _choose(split: Split, limit: int | None, seed: int) -> tuple[Split, tuple[str, ...]]:
    if limit is None or limit >= len(split):
        return split, ()
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    names = [sample_name(file) for file in split.files]
    chosen = stratified_subset(names, split.labels, limit, seed)
    note = f"limit: {limit:,} of {len(split):,} images, equal share of each class (seed {seed})"
    files = tuple(split.files[i] for i in chosen)
    return Split(files, tuple(split.labels[i] for i in chosen)), (note,)


def _read(file: Path, preprocess: Preprocess) -> tuple[str, npt.NDArray[np.uint8]] | DataError:
    try:
        content = file.read_bytes()
        return hashlib.sha256(content).hexdigest(), decode(content, file, preprocess)
    except OSError as error:
        return DataError(f"cannot read image {file}: {error.strerror}")
    except DataError as error:
        return error


def _write_pixels(
    split: Split, preprocess: Preprocess, path: Path, on_error: OnError, threads: int
) -> tuple[list[int], list[str], list[DataError]]:
    """Decode into ``path``; returns the indices kept, their SHA-256 and the errors skipped."""
    side = preprocess.crop
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    kept: list[int] = []
    sources: list[str] = []
    skipped: list[DataError] = []
    try:
        shape = (len(split), side, side, 3)
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            # By chunks, so that decoded images wait on disk and not in memory.
            for start in range(0, len(split), CHUNK):
                files = split.files[start : start + CHUNK]
                results = pool.map(lambda file: _read(file, preprocess), files)
                for index, result in enumerate(results, start):
                    if isinstance(result, DataError):
                        if on_error == "fail":
                            raise result
                        skipped.append(result)
                        continue
                    pixels[len(kept)] = result[1]
                    kept.append(index)
                    sources.append(result[0])
        if not kept:
            raise DataError(f"none of {len(split):,} images could be read; the first: {skipped[0]}")
        pixels.flush()
        if skipped:
            shorter = path.with_name(f".{path.name}.{os.getpid()}.short.npy")
            np.save(shorter, pixels[: len(kept)])
            shorter.replace(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return kept, sources, skipped


def prepare(
    dataset: Dataset,
    split: str,
    preprocess: Preprocess,
    folder: Path,
    input_name: str = "input",
    limit: int | None = None,
    seed: int = 0,
    on_error: OnError = "fail",
    threads: int = 2,
    exclude: Sequence[str] = (),
) -> PreparedSplit:
    """Decode, resize and crop every image of a split once, into ``folder``.

    Writes ``<input_name>.npy`` uint8 (N, H, W, 3), ``labels.npy`` int64 (N,), and last
    ``manifest.json``: a folder without it is unfinished.

    Args:
        dataset: Where the files are.
        split: Name of the split.
        preprocess: Sizes, interpolation, normalisation.
        folder: Where to write; created.
        input_name: Name of the model's input.
        limit: At most so many images, the same share of each class; None takes all.
        seed: Seeds that choice.
        on_error: ``fail``: the first unreadable image ends it. ``skip``: leave it out; the notes
            say how many.
        threads: Decoder threads (Pillow releases the interpreter lock).
        exclude: Names of the splits that are scored: their files are left out of this one.

    Raises:
        ConfigError: ``on_error`` or ``limit`` is none of the allowed values.
        DataError: The split is missing or empty, or an image cannot be read.
    """
    if on_error not in ("fail", "skip"):
        raise ConfigError(f"no on_error '{on_error}'", hint="choose from fail, skip")
    index = dataset.index()
    whole = index.split(split)
    for other in exclude:
        whole = without(whole, split, index.split(other), other)
    chosen, limited = _choose(whole, limit, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    kept, sources, skipped = _write_pixels(
        chosen, preprocess, folder / f"{input_name}.npy", on_error, threads
    )
    labels = np.asarray([chosen.labels[i] for i in kept], np.int64)
    np.save(folder / "labels.npy", labels)
    notes = [*index.notes, *whole.notes, *limited]
    if skipped:
        notes.append(
            f"{len(skipped):,} of {len(chosen):,} images skipped as unreadable; "
            f"the first: {skipped[0].message}"
        )
    identity = {
        "sources": sources,
        "labels": labels.tolist(),
        "classes": list(index.classes),
        "preprocess": asdict(preprocess),
        "input": input_name,
    }
    write_json(
        folder / MANIFEST,
        {
            "name": split,
            "count": len(kept),
            "classes": list(index.classes),
            "arrays": [input_name],
            "normalization": {
                input_name: {"mean": list(preprocess.mean), "std": list(preprocess.std)}
            },
            "sources": sources,
            "notes": notes,
            "content": hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
            "files": [sample_name(chosen.files[i]) for i in kept],
        },
    )
    return PreparedSplit.load(folder)


def assert_disjoint(a: PreparedSplit, b: PreparedSplit) -> None:
    """Check that two splits share no image, by the SHA-256 of the source files.

    Raises:
        DataError: They do; the message says how many and names the first.
    """
    theirs = set(b.sources)
    shared = [i for i, source in enumerate(a.sources) if source in theirs]
    if not shared:
        return
    manifest = json.loads((a.folder / MANIFEST).read_text(encoding="utf-8"))
    first = manifest.get("files", a.sources)[shared[0]]
    raise DataError(
        f"{len(shared):,} images are in both '{a.name}' and '{b.name}' (same SHA-256), "
        f"the first: {first}",
        hint="scored images must not be used for training or calibration: remove the duplicates",
    )
