"""Decode a split once into the folder that :class:`pqbench.core.split.PreparedSplit` reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pqbench.core.dataset import Dataset, Sample, Split
from pqbench.core.errors import ConfigError, DataError
from pqbench.core.files import write_json
from pqbench.core.preprocess import OnError
from pqbench.core.split import MANIFEST, PreparedSplit
from pqbench.data.preprocess import Preprocess, decode, to_channels
from pqbench.data.subset import choose, content_key, sample_name

CHUNK = 128


def save_manifest(
    folder: Path,
    name: str,
    chosen: Split,
    classes: Sequence[str],
    arrays: Sequence[str],
    normalization: Mapping[str, Preprocess],
    sources: Sequence[str],
    notes: Sequence[str],
    identity: Mapping[str, Any],
) -> PreparedSplit:
    """Write ``manifest.json``, last of a prepared folder's files, and open the folder.

    Args:
        folder: Holds the arrays and ``labels.npy``.
        name: The split's name.
        chosen: Its samples, those that were prepared.
        classes: The data set's classes.
        arrays: Names of the model's inputs, in order.
        normalization: Mean and standard deviation by input, for image inputs.
        sources: SHA-256 of each sample.
        notes: For the record.
        identity: What the content depends on beside sources and classes.
    """
    value = {"sources": list(sources), "classes": list(classes), **identity}
    write_json(
        folder / MANIFEST,
        {
            "name": name,
            "count": len(chosen),
            "classes": list(classes),
            "arrays": list(arrays),
            "normalization": {
                key: {"mean": list(p.mean), "std": list(p.std)} for key, p in normalization.items()
            },
            "sources": list(sources),
            "notes": list(notes),
            "content": hashlib.sha256(json.dumps(value).encode()).hexdigest(),
            "files": [sample_name(file) for file in chosen.files],
        },
    )
    return PreparedSplit.load(folder)


def _read(
    file: Path, sample: Sample | None, preprocess: Preprocess
) -> tuple[str, npt.NDArray[np.uint8]] | DataError:
    if isinstance(sample, str):
        return DataError(f"{file} is a text, no image", hint="choose a model for texts")
    try:
        if sample is not None:
            image = Image.fromarray(np.asarray(sample, np.uint8))
            return content_key(sample), to_channels(image, preprocess)
        content = file.read_bytes()
        return hashlib.sha256(content).hexdigest(), decode(content, file, preprocess)
    except OSError as error:
        return DataError(f"cannot read image {file}: {error.strerror}")
    except DataError as error:
        return error


def write_pixels(
    split: Split, preprocess: Preprocess, path: Path, on_error: OnError, threads: int
) -> tuple[list[int], list[str], list[DataError]]:
    """Decode into ``path``; returns the indices kept, their SHA-256 and the errors skipped."""
    side = preprocess.crop
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    kept: list[int] = []
    sources: list[str] = []
    skipped: list[DataError] = []
    try:
        shape = (len(split), side, side, preprocess.channels)
        pixels = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor(max(1, threads)) as pool:
            # By chunks, so that decoded images wait on disk and not in memory.
            for start in range(0, len(split), CHUNK):
                end = min(start + CHUNK, len(split))
                held = split.samples[start:end] if split.samples is not None else None
                results = pool.map(
                    lambda file, sample: _read(file, sample, preprocess),
                    split.files[start:end],
                    held if held is not None else [None] * (end - start),
                )
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
    on_error: OnError = OnError.fail,
    threads: int = 2,
    exclude: Sequence[str] = (),
) -> PreparedSplit:
    """Decode, resize and crop every image of a split once, into ``folder``.

    Writes ``<input_name>.npy`` uint8 (N, H, W, 3 or 1), ``labels.npy`` int64 (N,), and last
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
    chosen, notes = choose(index, split, exclude, limit, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    kept, sources, skipped = write_pixels(
        chosen, preprocess, folder / f"{input_name}.npy", on_error, threads
    )
    labels = np.asarray([chosen.labels[i] for i in kept], np.int64)
    np.save(folder / "labels.npy", labels)
    return save_manifest(
        folder,
        split,
        chosen.take(kept),
        index.classes,
        [input_name],
        {input_name: preprocess},
        sources,
        [
            *notes,
            *skip_note(chosen, skipped),
            *conflict_note([chosen.files[i] for i in kept], sources, labels.tolist()),
        ],
        {"labels": labels.tolist(), "preprocess": asdict(preprocess), "input": input_name},
    )


def skip_note(chosen: Split, skipped: Sequence[DataError]) -> list[str]:
    """What a record says about images that could not be read."""
    if not skipped:
        return []
    return [
        f"{len(skipped):,} of {len(chosen):,} images skipped as unreadable; "
        f"the first: {skipped[0].message}"
    ]


def conflict_note(
    files: Sequence[Path], sources: Sequence[str], labels: Sequence[int]
) -> list[str]:
    """What a record says about copies of one image that have different labels."""
    first: dict[str, int] = {}
    pairs = []
    for i, source in enumerate(sources):
        before = first.setdefault(source, i)
        if labels[before] != labels[i]:
            pairs.append(f"{sample_name(files[before])} and {sample_name(files[i])}")
    if not pairs:
        return []
    return [
        f"{len(pairs):,} images occur twice with different labels, of which one is wrong whatever "
        f"a model says; the first: {pairs[0]}"
    ]


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
        f"{len(shared):,} samples are in both '{a.name}' and '{b.name}' (same SHA-256), "
        f"the first: {first}",
        hint="scored samples must not be used for training or calibration: remove the duplicates",
    )
