"""The last part of a sweep: its finalists timed beside what runs today, and the answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pqbench.core import interrupt
from pqbench.core.errors import PqbenchError
from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.report.answer import Answer, answers, finalists
from pqbench.report.answer_cells import float_precision
from pqbench.report.load import newest
from pqbench.report.trail import read_trail

log = logging.getLogger("pqbench")


def answer(
    config: DictConfig, read: Sequence[tuple[Record, Path]], folder: Path, sweep: bool
) -> list[Answer]:
    """What the records of a run or a sweep say; nothing where the threads differ.

    Args:
        config: The composed configuration, for the question.
        read: What came out, and where it lies.
        folder: Of the run or the sweep.
        sweep: Whether finalists are worth timing beside the reference.
    """
    given: Any = OmegaConf.to_object(config.claim)
    margins: Margins = given
    chosen = newest([record for record, _ in read])
    if len({record.config.get("threads") for record in chosen}) > 1:
        return []  # a study of threads, which its own advice answers: see report.scaling
    places = {record.fingerprint: where for record, where in read}
    paired = pairings(chosen, places, folder, margins) if sweep else []
    trail = read_trail(folder) if sweep else None
    return answers(chosen, paired, margins, trail.unseen if trail else None)


def pairings(
    records: Sequence[Record], places: Mapping[str, Path], sweep: Path, margins: Margins
) -> list[Pairing]:
    """Pair each finalist with the reference; what cannot be paired is said, and left out.

    Args:
        records: Of the sweep, the newest of each experiment.
        places: Folder of each record, by fingerprint.
        sweep: The sweep's folder.
        margins: The question.
    """
    from pqbench.experiment.reference import Side, pair

    found = []
    for record, reference in finalists(records, margins):
        interrupt.check()
        what = record.experiment
        log.info(
            "  %s · %s · %s, beside %s in %s",
            *(what.model, what.recipe_name, what.backend, reference.experiment.backend),
            float_precision(reference),
        )
        ours, theirs = (Side(r, places[r.fingerprint]) for r in (record, reference))
        try:
            found.append(pair(ours, theirs, sweep))
        except PqbenchError as error:
            log.warning("  not paired: %s", error)
    return found
