"""What the models predicted: confusion matrix, recall by class, samples whose answer flipped.

Read from the predictions beside each record; what is missing there is left out.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.files import read_limited
from pqbench.core.record import Record
from pqbench.report.environments import record_keys

log = logging.getLogger(__name__)
MAX_CLASSES = 20  # of a matrix that fits a page
MAX_FLIPS = 40  # samples that are listed
MAX_READ = 60  # experiments of a page
_COLUMNS = ("label", "prediction")
_PLACES = ("path", "source")  # what names a sample: its path, else its file's SHA-256


def predicted(
    records: Sequence[Record], folders: Mapping[tuple[str, str], Path]
) -> list[dict[str, Any]]:
    """The predictions of each classifier whose predictions lie beside its record, JSON-ready.

    Args:
        records: In the order of the page's rows.
        folders: Where each record lies, by :func:`pqbench.report.environments.record_keys`.

    Returns:
        For each: ``row``; ``names`` of the classes and ``matrix`` (true class by answer), both
        empty above :data:`MAX_CLASSES`; ``classes`` with recall; ``lost`` and ``won`` against the
        baseline and the ``flips`` themselves.
    """
    keys = record_keys(records)
    read: dict[tuple[str, str], dict[str, Any] | None] = {}

    def predictions(key: tuple[str, str], record: Record | None) -> dict[str, Any] | None:
        if key not in read:
            folder = folders.get(key)
            read[key] = read_predictions(record, folder) if record is not None and folder else None
        return read[key]

    by_key = dict(zip(keys, records, strict=True))
    found: list[dict[str, Any]] = []
    for index, (key, record) in enumerate(zip(keys, records, strict=True)):
        if not record.ok or record.accuracy is None or record.accuracy.metric != "top1":
            continue
        if len(found) == MAX_READ:
            break
        own = predictions(key, record)
        if own is None:
            continue
        base_key = (record.baseline or "", key[1])
        base = predictions(base_key, by_key.get(base_key)) if record.baseline else None
        found.append(_told(index, record, own, base))
    return found


def same_samples(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two predictions, as they are read, are of the same samples in the same order."""
    return bool(
        first["place"]
        and first["place"] == second["place"]
        and np.array_equal(first["label"], second["label"])
    )


def read_predictions(record: Record, folder: Path) -> dict[str, Any] | None:
    """Labels, predictions and what names each sample; None where there is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = record.path(folder, "predictions")
    if path is None or not path.is_file():
        return None
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        log.warning("cannot read %s: %s", path, error)
        return None
    if not set(_COLUMNS) <= set(table.column_names):
        return None  # of another task
    place = next((name for name in _PLACES if _told_by(table, name)), None)
    pictures = record.path(folder, "flips")
    return {
        "pictures": pictures if pictures is not None and pictures.is_dir() else None,
        "label": table["label"].to_numpy(),
        "prediction": table["prediction"].to_numpy(),
        "place": table[place].to_pylist() if place else [],
    }


def _told_by(table: Any, name: str) -> bool:
    return name in table.column_names and table[name].null_count < len(table)


def _picture(folder: Path | None, index: int) -> str | None:
    """A small picture as a data URL; None where there is none."""
    path = folder / f"{index}.jpg" if folder is not None else None
    if path is None or not path.is_file():
        return None
    return "data:image/jpeg;base64," + base64.b64encode(read_limited(path)).decode("ascii")


def _told(
    index: int, record: Record, own: Mapping[str, Any], base: Mapping[str, Any] | None
) -> dict[str, Any]:
    labels, chosen = own["label"], own["prediction"]
    size = int(max(labels.max(initial=0), chosen.max(initial=0))) + 1
    names = _names(record, size)
    told: dict[str, Any] = {"row": index, "count": len(labels), "names": [], "matrix": []}
    if len(names) <= MAX_CLASSES:
        told |= {"names": names, "matrix": _matrix(labels, chosen, len(names))}
    told["classes"] = _classes(record, names, labels, chosen)
    if base is not None and np.array_equal(base["label"], labels):
        told |= _flips(own, base, names)
    return told


def _names(record: Record, size: int) -> list[str]:
    """Of the classes, by index; their number where the record does not tell all of them."""
    known = record.accuracy.faithfulness if record.accuracy else None
    classes = [item.name for item in known.classes] if known else []
    return classes if len(classes) >= size else [str(i) for i in range(size)]


def _matrix(
    labels: npt.NDArray[np.integer[Any]], chosen: npt.NDArray[np.integer[Any]], size: int
) -> list[list[int]]:
    counts = np.bincount(labels * size + chosen, minlength=size * size)
    return [[int(n) for n in line] for line in counts.reshape(size, size)]


def _classes(
    record: Record,
    names: Sequence[str],
    labels: npt.NDArray[np.integer[Any]],
    chosen: npt.NDArray[np.integer[Any]],
) -> list[dict[str, Any]]:
    """Recall by class, with interval and baseline where the record has them."""
    known = record.accuracy.faithfulness if record.accuracy else None
    if known and known.classes:
        return [
            {
                "name": item.name, "count": item.count, "recall": item.score, "low": item.low,
                "high": item.high, "baseline": item.baseline, "lost": item.lost,
            }
            for item in known.classes
        ]  # fmt: skip
    found = []
    for index in np.unique(labels)[:MAX_CLASSES]:
        of_class = labels == index
        recall = float(np.mean(chosen[of_class] == index))
        found.append({"name": names[index], "count": int(of_class.sum()), "recall": recall})
    return found


def _flips(own: Mapping[str, Any], base: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Samples whose answer differs from the baseline's; those that were lost come first."""
    labels, before, after = own["label"], base["prediction"], own["prediction"]
    lost = (before == labels) & (after != labels)
    won = (before != labels) & (after == labels)
    other = (before != after) & ~lost & ~won
    order = [int(i) for group in (lost, won, other) for i in np.flatnonzero(group)]

    def name(value: int) -> str:
        return names[value] if value < len(names) else str(value)

    return {
        "lost": int(lost.sum()),
        "won": int(won.sum()),
        "flips": [
            {
                "sample": own["place"][i] if own["place"] else str(i),
                "picture": _picture(own["pictures"], i),
                "label": name(labels[i]),
                "before": name(before[i]),
                "after": name(after[i]),
                "what": "lost" if lost[i] else "won" if won[i] else "both wrong",
            }
            for i in order[:MAX_FLIPS]
        ],
        "flipped": len(order),
    }
