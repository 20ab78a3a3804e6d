"""Time the cells of a sweep beside what runs today, another cell, in turns.

A user asks "how much faster than what I run now?". What runs now is usually another runtime than
the candidate's, and a product of two paired ratios would hide the error of both. So the finalists
of a sweep are paired with the reference itself: the models that their records deployed, on the
inputs that were scored, under the sweep's own protocol. Predictions of the two records are paired
as well.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from pqbench.core.artifact import Artifact
from pqbench.core.dataset import Dataset
from pqbench.core.errors import DataError, PqbenchError
from pqbench.core.files import write_json
from pqbench.core.instantiate import make
from pqbench.core.paths import inside
from pqbench.core.record import Pairing, Record
from pqbench.experiment.config import ExperimentConfig, from_plain
from pqbench.experiment.measure_pair import SideSpec, run_cell
from pqbench.experiment.pipeline import Pipeline
from pqbench.experiment.run import open_cache
from pqbench.report.pairings import FILE, FOLDER, load_pairing
from pqbench.workers.stage import StageRunner

log = logging.getLogger("pqbench")


@dataclass(frozen=True)
class Side:
    """A record with its folder."""

    record: Record
    folder: Path


def pair(candidate: Side, reference: Side, out: Path) -> Pairing:
    """Time a candidate beside the reference, or find that this was done already.

    Args:
        candidate: What might be deployed.
        reference: What runs today.
        out: Folder of the sweep; the pairing goes to ``reference/<fingerprint>`` below it.

    Raises:
        PqbenchError: A side could not be loaded or timed, or its model or inputs are gone.
        OSError: The pairing cannot be written.
    """
    names = (candidate.record.fingerprint, reference.record.fingerprint)
    folder = out / FOLDER / names[0]
    identities = [candidate.record.identity, reference.record.identity]
    found = load_pairing(folder)
    if found is not None and found.reference == names[1] and found.identities == identities:
        return found
    config = from_plain(candidate.record.config)
    split = _scored_split(config, folder)
    protocol = dataclasses.replace(config.protocol, score=False, profile=False, weigh=False)
    cell = run_cell(
        _side(candidate, split, "candidate"),
        _side(reference, split, "baseline"),
        protocol,
        folder,
        threads=config.threads,
        memory_mb=config.limits.memory_mb,
        key="+".join(names),
    )
    pairing = Pairing(*names, identities, cell.speedup)
    _pair_predictions(pairing, candidate, reference)
    write_json(folder / FILE, dataclasses.asdict(pairing))
    return pairing


def _side(side: Side, split: Path, name: str) -> SideSpec:
    model = inside(side.folder, side.record.files["model"])
    Artifact.load(model)
    return SideSpec(from_plain(side.record.config).backend, model, split, name)


def _scored_split(config: ExperimentConfig, folder: Path) -> Path:
    """The prepared split that was scored: found in the cache, or prepared again."""
    cache = open_cache(config)
    runner = StageRunner(cache, folder / "work", folder / "logs")
    index = make(config.dataset.source, "dataset.source", Dataset).index()
    try:
        return Pipeline(config, runner).scored_split(index, index.listing_hash())
    finally:
        if cache is not None:
            cache.close()


def _pair_predictions(pairing: Pairing, candidate: Side, reference: Side) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from pqbench.measure.accuracy import compare

    try:
        ours, theirs = (
            pq.read_table(inside(s.folder, s.record.files["predictions"])).to_pydict()
            for s in (candidate, reference)
        )
        if ours["source"] != theirs["source"]:
            raise DataError("the two records were scored on other samples")
        labels = np.asarray(ours["label"], np.int64)
        said, reference_said = (np.asarray(t["prediction"], np.int64) for t in (ours, theirs))
        pairing.against = compare(said, reference_said, labels)
    except (OSError, KeyError, PqbenchError) as error:
        pairing.reasons["against"] = f"predictions cannot be paired: {error}"
