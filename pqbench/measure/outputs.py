"""Raw outputs of a model whose meaning is not known: kept, and compared with the baseline's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.artifact import Artifact
from pqbench.core.errors import DataError
from pqbench.core.files import write_json
from pqbench.core.parity import Parity, compare
from pqbench.core.split import PreparedSplit

VALUES = 2**18  # kept of each output and sample; of larger ones every k-th value
TENSORS = "tensors"
WHAT = "outputs against the baseline"


def has_raw_outputs(artifact: Artifact) -> bool:
    """Whether a model was given as an ONNX file without a task."""
    return bool(artifact.lineage) and artifact.lineage[0].details.get("scores") == TENSORS


def raw_outputs(
    outputs: Sequence[npt.NDArray[Any]], count: int, names: Sequence[str], path: Path
) -> npt.NDArray[np.float32]:
    """All outputs of a call side by side, (count, values); which is which goes beside ``path``.

    Args:
        outputs: In the order of ``names``, each (n, ...).
        count: Samples of the call that count.
        names: The outputs' names.
        path: Where the values will be written; ``<path>.json`` is written once.

    Raises:
        DataError: An output does not have one row per sample.
    """
    parts, columns, start = [], {}, 0
    for name, value in zip(names, outputs, strict=True):
        array = np.asarray(value)
        if array.ndim == 0 or len(array) < count:
            raise DataError(f"output {name} has shape {array.shape}, {count} samples were given")
        flat = array[:count].reshape(count, -1)
        flat = flat[:, :: max(1, -(-flat.shape[1] // VALUES))].astype(np.float32)
        columns[name] = [start, start + flat.shape[1]]
        start += flat.shape[1]
        parts.append(flat)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        write_json(beside, columns)
    return np.concatenate(parts, axis=1)


def compare_outputs(
    outputs: Path, baseline: Path, split: PreparedSplit
) -> tuple[dict[str, Any], str]:
    """Signal-to-noise ratio of the candidate's raw outputs against the baseline's.

    Args:
        outputs: The candidate's, as :func:`raw_outputs` keeps them.
        baseline: The baseline's.
        split: What both were fed.

    Returns:
        Figures of each output, for the record, and one line for the notes.

    Raises:
        DataError: The two have different outputs.
    """
    ours, theirs = (np.load(path, mmap_mode="r") for path in (outputs, baseline))
    columns, other = (
        json.loads(p.with_suffix(".json").read_text("utf-8")) for p in (outputs, baseline)
    )
    if columns != other or ours.shape != theirs.shape:
        raise DataError(
            f"the two models give different outputs: {columns}, the baseline {other}",
            hint="only models with the same outputs can be compared",
        )
    found: dict[str, Parity] = {}
    for name, (start, end) in columns.items():
        found[name] = compare(
            f"{WHAT}: {name}", [theirs[:, start:end]], [ours[:, start:end]], -np.inf, 0.0
        )
    worst = min(found, key=lambda n: -np.inf if (v := found[n].sqnr_db) is None else v)
    ratio = found[worst].sqnr_db
    said = f"{ratio:.1f} dB" if ratio is not None else found[worst].problem
    note = (
        f"{WHAT}, {split.count:,} samples: signal to noise {said}"
        f"{f' (worst of {len(found)}: {worst})' if len(found) > 1 else ''}"
    )
    figures = asdict(found[worst])
    figures["tolerance"] = {}
    figures["outputs_sqnr_db"] = {name: parity.sqnr_db for name, parity in found.items()}
    return figures, note
