"""The cells among which an answer is chosen, and all their claims, judged together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.core.margins import Margins
from pqbench.core.record import Pairing, Record
from pqbench.report.claims import Cell, Kind, judge
from pqbench.report.names import backend_name

_PRECISIONS = {"bf16": "BF16", "f16": "FP16", "fp16": "FP16", "int8": "INT8"}  # as backends say it


@dataclass(frozen=True)
class Found:
    """A cell that is, or could be, the answer.

    Attributes:
        record: What was measured.
        own: Its claims against the uncompressed model on its own runtime; None for that model.
        against: Its claims against the reference; None where it was not paired with it.
    """

    record: Record
    own: Cell | None
    against: Cell | None

    @property
    def name(self) -> str:
        """``nncf_int8 on OpenVINO``."""
        return cell_name(self.record)

    @property
    def deciding(self) -> Cell | None:
        """The claims that decide: against the reference where there are some."""
        return self.against or self.own


def cell_name(record: Record) -> str:
    """Recipe and runtime; a runtime's name tells another precision than FP32."""
    plain = "FP32" if float_precision(record) == "FP32" else "uncompressed"
    recipe = "+".join(record.experiment.recipe) or plain
    return f"{recipe} on {backend_name(record.experiment.backend)}"


def float_precision(record: Record) -> str:
    """What a runtime computes in where nothing is quantized: ``FP32``, ``BF16``, ..."""
    return precision_of(record.config.get("backend") or {})


def precision_of(backend: Mapping[str, Any]) -> str:
    """The same by a backend's settings."""
    return _PRECISIONS.get(str(backend.get("precision")), "FP32")


@dataclass(frozen=True)
class Cells:
    """All claims of a report, judged together; by the experiment's fingerprint."""

    own: Mapping[str, Cell]
    against: Mapping[str, Cell]


def judge_cells(
    records: Sequence[Record], pairings: Sequence[Pairing], margins: Margins, unseen: int
) -> Cells:
    """Judge all claims of a report: those against the own baseline and those against the reference.

    Args:
        records: Of a report; the newest of each experiment.
        pairings: Candidates timed beside the reference.
        margins: The question.
        unseen: Claims that chose among a search's cells without being in a record here.
    """
    by_name = {record.fingerprint: record for record in records if record.ok}
    stood_in = []
    for pairing in pairings:
        record = by_name.get(pairing.candidate)
        if record is not None and pairing.reference in by_name:
            stood_in.append(_beside_reference(record, pairing))
    judged = judge([*records, *stood_in], margins, unseen=unseen)
    own: dict[str, Cell] = {}
    against: dict[str, Cell] = {}
    marked = {id(record) for record in stood_in}
    for cell in judged:
        target = against if id(cell.record) in marked else own
        if target is against and _same_answers(by_name[cell.record.fingerprint], cell):
            claims = tuple(j for j in cell.claims if j.claim.kind is not Kind.DROP)
            cell = dataclasses.replace(cell, claims=claims)
        target[cell.record.fingerprint] = cell
    return Cells(own, against)


def _same_answers(record: Record, cell: Cell) -> bool:
    """Whether it is the very model, uncompressed, and answered every sample as the reference did.

    Parity with the source was proved when it was converted, so there is no loss to be claimed.
    """
    accuracy = cell.record.accuracy
    compared = accuracy.against_baseline if accuracy else None
    return record.is_baseline and compared is not None and compared.agreement == 1.0


def _beside_reference(record: Record, pairing: Pairing) -> Record:
    """The record with the reference in its baseline's place; FP32 counts as a recipe then."""
    accuracy = record.accuracy
    if accuracy is not None:
        accuracy = dataclasses.replace(accuracy, against_baseline=pairing.against)
    experiment = record.experiment
    if not experiment.recipe:
        experiment = dataclasses.replace(experiment, recipe=["FP32"])
    return dataclasses.replace(
        record, experiment=experiment, speedup=pairing.speedup, accuracy=accuracy
    )
