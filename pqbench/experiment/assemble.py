"""The record of an experiment that was measured: its scores, its size, and the files beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.core import record as rec
from pqbench.core.artifact import RESULT, Artifact
from pqbench.core.errors import Status
from pqbench.core.files import copy_tree, write_json
from pqbench.core.split import PreparedSplit
from pqbench.experiment.failure import now
from pqbench.experiment.pipeline import Deployable
from pqbench.experiment.tasks import get_task
from pqbench.machine.describe import describe
from pqbench.machine.software import installed

if TYPE_CHECKING:
    from pqbench.experiment.measure_pair import CellResult

PREDICTIONS = "predictions.parquet"
CLEAN_PREDICTIONS = "predictions_clean.parquet"
LOCK = "requirements.txt"
SENSITIVITY = "sensitivity.json"
_RATIOS = {"file_bytes": "file_ratio", "parameters": "parameter_ratio", "macs": "macs_ratio"}


@dataclass(frozen=True)
class Baseline:
    """What a recipe is compared with.

    Attributes:
        record: Its record.
        folder: Folder of the record and of the files that it names.
        artifact: Folder of its model, which is timed beside the candidate's.
    """

    record: rec.Record
    folder: Path
    artifact: Path

    def file(self, name: str) -> Path | None:
        """A file of the record; None if it has none of that name."""
        return self.record.path(self.folder, name)


def measured_record(
    config: Mapping[str, Any],
    folder: Path,
    deployable: Deployable,
    cell: CellResult,
    baseline: Baseline | None,
    work: Mapping[str, Any],
    *,
    experiment: rec.Experiment,
    fingerprint: str,
    identity: str,
    command: str,
    stages: list[rec.Stage],
    began: float,
) -> rec.Record:
    """Score what was measured, put the files beside the record, and compose it.

    Args:
        config: The resolved configuration.
        folder: Where the record goes; what was measured is there already.
        deployable: What was measured.
        cell: What came out.
        baseline: What it is compared with; None for a baseline itself.
        work: Parameters and MACs, from the stage that counts them.
        experiment: What ran.
        fingerprint: Hash of the configuration.
        identity: Hash of what it depends on beside that.
        command: Command line that reproduces it.
        stages: Stages that were done.
        began: When the experiment began, on ``perf_counter``'s clock in s.
    """
    artifact = Artifact.load(deployable.artifact.folder)
    lineage = [dataclasses.asdict(entry) for entry in artifact.lineage]
    details = [entry["details"] for entry in lineage]
    copy_tree(deployable.artifact.folder, folder / "model", [RESULT])
    (folder / LOCK).write_text("\n".join(installed()) + "\n", encoding="utf-8")
    files = {**cell.files, "model": "model", "logs": "logs", "lock": LOCK}
    reasons = dict(cell.reasons)
    if artifact.lineage and config["model"]["representation"] == "onnx":
        reasons["size.macs"] = "the model was given as ONNX: MACs are counted on torch networks"
    why_not = _why_not_scored(config, deployable, cell)
    accuracy = accuracy_clean = None
    if why_not:
        reasons["accuracy"] = why_not
    else:
        accuracy = _score(config, folder, deployable.split.folder, cell, baseline)
        files["predictions"] = PREDICTIONS
        if cell.clean_logits is not None and deployable.clean:
            accuracy_clean = _score(config, folder, deployable.clean.folder, cell, baseline, True)
            files["clean_predictions"] = CLEAN_PREDICTIONS
    scans = [d["sensitivity"] for d in details if "sensitivity" in d]
    if scans:
        write_json(folder / SENSITIVITY, scans[-1])
        files["sensitivity"] = SENSITIVITY
    parity = [d["parity"] for d in (*details, cell.placement.details) if d.get("parity")]
    return rec.Record(
        status=Status.OK,
        experiment=experiment,
        fingerprint=fingerprint,
        baseline=baseline.record.fingerprint if baseline else None,
        created=now(),
        seconds=round(time.perf_counter() - began, 3),
        command=command,
        config=dict(config),
        environment={**describe(config["threads"]), "load_while_timing": cell.load_average},
        stages=stages,
        lineage=lineage,
        latency=cell.latency,
        speedup=cell.speedup,
        cold=cell.cold,
        memory=cell.memory,
        energy=cell.energy,
        size=_size(artifact, work, cell.placement.details, baseline),
        accuracy=accuracy,
        accuracy_clean=accuracy_clean,
        parity=parity,
        placement=cell.placement,
        profile=cell.profile,
        reasons=reasons,
        notes=[*deployable.notes, *cell.notes],
        files=files,
        identity=identity,
    )


def _why_not_scored(
    config: Mapping[str, Any], deployable: Deployable, cell: CellResult
) -> str | None:
    if deployable.weights == "none":
        return "weights=none: random weights, nothing to score"
    if not config["dataset"]["scored"]:
        return f"data set {config['dataset']['name']}: made-up inputs"
    return "protocol.score=false" if cell.logits is None else None


def _score(
    config: Mapping[str, Any],
    folder: Path,
    split: Path,
    cell: CellResult,
    baseline: Baseline | None,
    clean: bool = False,
) -> rec.Accuracy:
    """The task's metrics of one split, paired with the baseline's sample by sample."""
    logits, name = (cell.clean_logits, "clean_logits") if clean else (cell.logits, "logits")
    return get_task(config["model"]["task"]).score(
        folder / str(logits),
        PreparedSplit.load(split),
        folder / (CLEAN_PREDICTIONS if clean else PREDICTIONS),
        baseline.file(name) if baseline else None,
    )


def _size(
    artifact: Artifact,
    work: Mapping[str, Any],
    details: Mapping[str, Any],
    baseline: Baseline | None,
) -> rec.Size:
    from pqbench.measure.size import measure_files

    size = rec.Size(**measure_files(artifact), **work)
    size.engine_bytes = details.get("engine_bytes")
    if baseline is not None:
        for name, ratio in _RATIOS.items():
            ours, theirs = getattr(size, name), getattr(baseline.record.size, name)
            if ours is not None and theirs:
                setattr(size, ratio, ours / theirs)
    return size
