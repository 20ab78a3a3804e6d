"""Prepared inputs: one split, preprocessed once, memory-mapped, the same bits for every backend.

``pqbench.data.prepare`` writes such a folder; calibration, training, measuring and scoring read it.
An image input is stored as uint8 (N, H, W, C) and becomes float32 (N, C, H, W) by
``(x / 255 - mean) / std``; any other input (token ids, masks) is handed over as stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import TensorSpec
from pqbench.core.files import write_json

MANIFEST = "manifest.json"
IGNORED = -100  # label of a pixel that is neither trained on nor scored: torch's ignore_index


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation on the 0..1 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Form:
    """How a model takes an input, where that is not float32 (N, C, H, W) or as stored.

    Attributes:
        dtype: NumPy's name of the element type; None as usual. An image as ``uint8`` is handed
            over as stored, 0..255, without normalization.
        layout: ``nchw`` or ``nhwc``, for images.
        channels: 1 for grey images; None as stored.
    """

    dtype: str | None = None
    layout: str = "nchw"
    channels: int | None = None


def grey(raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Luma of RGB images by ITU-R 601, rounded as Pillow's mode ``L``.

    Args:
        raw: uint8 (n, H, W, 3).

    Returns:
        uint8 (n, H, W, 1).
    """
    weights = np.array([19595, 38470, 7471], np.uint32)
    luma = (raw.astype(np.uint32) @ weights + np.uint32(0x8000)) >> np.uint32(16)
    return luma.astype(np.uint8)[..., None]


def shaped(
    raw: npt.NDArray[Any], norm: Normalization, form: Form, threads: int = 1
) -> npt.NDArray[Any]:
    """Stored images in the form that a model takes.

    Args:
        raw: uint8 (n, H, W, C).
        norm: Mean and standard deviation per channel of the model's input, or one for all.
        form: What the model takes.
        threads: Threads that share the images.
    """
    if form.channels == 1 and raw.shape[-1] == 3:
        raw = grey(raw)
    if form.dtype == "uint8":
        out = raw if form.layout == "nhwc" else raw.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(out)
    if form.channels == 1:
        norm = Normalization(norm.mean[:1], norm.std[:1])
    scaled = normalize(raw, norm, threads)
    if form.layout == "nhwc":
        scaled = np.ascontiguousarray(scaled.transpose(0, 2, 3, 1))
    return scaled if form.dtype in (None, "float32") else scaled.astype(form.dtype)


def normalize(
    raw: npt.NDArray[Any], norm: Normalization, threads: int = 1
) -> npt.NDArray[np.float32]:
    """Stored images as a model is fed: ``(x / 255 - mean) / std``, channels first.

    One image at a time, so that every pass stays in the processor's cache: ten times as fast as on
    the whole batch, with the same bits.

    Args:
        raw: uint8 (n, H, W, C).
        norm: Mean and standard deviation per channel.
        threads: Threads that share the images.

    Returns:
        float32 (n, C, H, W), C-contiguous.
    """
    count, height, width, channels = raw.shape
    mean, std = (np.array(values, np.float32) for values in (norm.mean, norm.std))
    scale = np.float32(1.0) / (np.float32(255.0) * std)
    shift = np.divide(mean, std, dtype=np.float32)
    out = np.empty((count, channels, height, width), np.float32)

    def fill(part: slice) -> None:
        for image, planes in zip(raw[part], out[part], strict=True):
            planes[...] = image.transpose(2, 0, 1)
            planes *= scale[:, None, None]
            planes -= shift[:, None, None]

    if threads < 2 or count < 2 * threads:
        fill(slice(None))
        return out
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, (slice(i, None, threads) for i in range(threads))))
    return out


def ahead(batches: Iterator[dict[str, npt.NDArray[Any]]]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The same batches, each read by a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


@dataclass(frozen=True)
class PreparedSplit:
    """One split on disk.

    Attributes:
        folder: Holds ``manifest.json``, ``labels.npy`` and one ``<input>.npy`` per model input.
        name: ``train``, ``val`` or ``clean``.
        count: Number of samples.
        classes: Class names; a label is an index into them.
        normalization: By input name, for image inputs; absent for others.
        arrays: Model input names, in the model's order.
        sources: SHA-256 of each sample's source file, in order; proves splits disjoint.
        notes: Facts that belong in every record made with this data.
        content: Hash of the split's content and preprocessing settings.
        forms: By input name: how the model takes it, where that is not the usual way.
        files: Name of each sample's file below the data set's folder, where it has one.
    """

    folder: Path
    name: str
    count: int
    classes: tuple[str, ...]
    arrays: tuple[str, ...]
    normalization: Mapping[str, Normalization]
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    content: str
    forms: Mapping[str, Form] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: Path | str) -> PreparedSplit:
        """Open a prepared folder."""
        folder = Path(folder)
        value: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return cls(
            folder=folder,
            name=value["name"],
            count=value["count"],
            classes=tuple(value["classes"]),
            arrays=tuple(value["arrays"]),
            normalization={
                name: Normalization(tuple(n["mean"]), tuple(n["std"]))
                for name, n in value["normalization"].items()
            },
            sources=tuple(value["sources"]),
            notes=tuple(value["notes"]),
            content=value["content"],
            forms={name: Form(**form) for name, form in value.get("forms", {}).items()},
            files=tuple(value.get("files", ())),
        )

    def with_forms(self, forms: Mapping[str, Form], notes: Sequence[str] = ()) -> PreparedSplit:
        """The same split, written down as fed in these forms; changes ``manifest.json``."""
        path = self.folder / MANIFEST
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        value["forms"] = {name: asdict(form) for name, form in forms.items()}
        value["notes"] = [*value["notes"], *notes]
        text = json.dumps([value["content"], value["forms"]])
        value["content"] = hashlib.sha256(text.encode()).hexdigest()
        write_json(path, value)
        return PreparedSplit.load(self.folder)

    def __len__(self) -> int:
        return self.count

    def stored(self, name: str) -> npt.NDArray[Any]:
        """The memory-mapped array of one input as stored, (N, ...)."""
        array: npt.NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array

    def labels(self) -> npt.NDArray[Any]:
        """Labels: (N,) int64, or (N, H, W) int16 for segmentation, where ``IGNORED`` is none."""
        array: npt.NDArray[Any] = np.load(self.folder / "labels.npy", mmap_mode="r")
        return array

    def feed(
        self, indices: Sequence[int] | npt.NDArray[Any] | slice, threads: int = 1
    ) -> dict[str, npt.NDArray[Any]]:
        """Model inputs for the chosen samples.

        Args:
            indices: Which samples, in the order wanted.
            threads: Threads that share the images.

        Returns:
            One C-contiguous array per input; images as float32 (n, C, H, W).
        """
        out: dict[str, npt.NDArray[Any]] = {}
        for name in self.arrays:
            raw = np.asarray(self.stored(name)[indices])
            norm, form = self.normalization.get(name), self.forms.get(name)
            if norm is None:
                dtype = form.dtype if form is not None else None
                out[name] = np.ascontiguousarray(raw, dtype)
            elif form is None:
                out[name] = normalize(raw, norm, threads)
            else:
                out[name] = shaped(raw, norm, form, threads)
        return out

    def batches(
        self, batch_size: int, limit: int | None = None, threads: int = 1
    ) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """All samples (or the first ``limit``) in order; the last batch may be smaller."""
        end = self.count if limit is None else min(limit, self.count)
        for start in range(0, end, batch_size):
            yield self.feed(slice(start, min(start + batch_size, end)), threads)

    def spread(self, count: int, seed: int = 0) -> npt.NDArray[np.int64]:
        """``count`` indices drawn without replacement, the same share of each class, seeded.

        Used for calibration subsets: a random draw of a sorted folder could miss classes.
        """
        count = min(count, self.count)
        rng = np.random.default_rng(seed)
        labels = np.asarray(self.labels())
        order = rng.permutation(self.count)
        if labels.ndim != 1:
            return np.sort(order[:count]).astype(np.int64)
        rank = np.empty(self.count, np.float64)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            rank[members] = (np.arange(len(members)) + 0.5) / len(members)
        chosen = np.argsort(rank, kind="stable")[:count]
        return np.sort(chosen).astype(np.int64)

    def take(self, count: int, folder: Path, seed: int = 0) -> PreparedSplit:
        """A split of fewer samples, spread over the classes; a smaller one is part of a larger.

        Args:
            count: How many samples, at most.
            folder: Where it is written.
            seed: Seeds the choice.
        """
        chosen = self.spread(count, seed)
        for name in (*self.arrays, "labels"):
            kept = self.labels() if name == "labels" else self.stored(name)
            np.save(folder / f"{name}.npy", kept[chosen])
        value: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        value |= {
            "count": len(chosen),
            "sources": [self.sources[i] for i in chosen],
            "files": [self.files[i] for i in chosen] if self.files else [],
            "notes": [*value["notes"], f"scored: {len(chosen)} of {self.count} samples"],
            "content": hashlib.sha256(f"{value['content']} {chosen.tolist()}".encode()).hexdigest(),
        }
        write_json(folder / MANIFEST, value)
        return PreparedSplit.load(folder)

    def specs(self) -> tuple[TensorSpec, ...]:
        """What the model is fed: names, shapes with a free batch, element types."""
        one = self.feed(slice(0, 1))
        return tuple(
            TensorSpec(name, (None, *array.shape[1:]), str(array.dtype))
            for name, array in one.items()
        )
