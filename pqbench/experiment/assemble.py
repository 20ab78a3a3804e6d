"""The record of an experiment: begun once, and finished with a result or with why there is none."""

from __future__ import annotations

import dataclasses
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pqbench.cache.sequence import next_number
from pqbench.core import record as rec
from pqbench.core.artifact import RESULT, Artifact
from pqbench.core.errors import OutputError, PqbenchError, Status
from pqbench.core.files import copy_tree, write_json
from pqbench.core.secrets import mask_text
from pqbench.core.split import PreparedSplit
from pqbench.experiment.config import ExperimentConfig
from pqbench.experiment.pipeline import Built
from pqbench.experiment.tasks import get_task
from pqbench.machine.describe import describe
from pqbench.machine.software import installed
from pqbench.models.settings import NO_TASK, GivenAs
from pqbench.workers.child import log_tail

if TYPE_CHECKING:
    from pqbench.experiment.cell_result import CellResult

PREDICTIONS = "predictions.parquet"
CLEAN_PREDICTIONS = "predictions_clean.parquet"
LOCK = "requirements.txt"
# What steps find that is a file of its own beside the record, by its name in their details.
BESIDE = {"sensitivity": "sensitivity.json", "int8_plan": "int8_plan.json"}
LOGITS = "logits"
ORDERED = ("classification", "text_classification")  # of which a wrong order of classes is told
_LOG = "experiment.log"
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


class Recorder:
    """The record of one experiment: begun once, finished or failed.

    Args:
        config: The configuration.
        plain: The same as plain values, as the record holds it.
        fingerprint: Hash of the configuration.
        folder: Where the record and the files beside it go.
        command: Command line that reproduces it.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        plain: Mapping[str, Any],
        fingerprint: str,
        folder: Path,
        command: str,
    ) -> None:
        self.config = config
        self.plain = plain
        self.fingerprint = fingerprint
        self.folder = folder
        self.command = command
        self._began = time.perf_counter()

    def begin(self) -> None:
        """The experiment's own work begins; what came before was its baseline's."""
        self._began = time.perf_counter()

    def finished(
        self,
        built: Built,
        cell: CellResult,
        baseline: Baseline | None,
        size: Mapping[str, Any],
        identity: str,
        stages: list[rec.Stage],
    ) -> rec.Record:
        """Score what was measured, put the files beside the record, and compose it.

        Args:
            built: What was measured.
            cell: What came out; its files are in the folder already.
            baseline: What it is compared with; None for a baseline itself.
            size: Bytes, parameters and MACs, from the stages that count them.
            identity: Hash of what it depends on beside the configuration.
            stages: Stages that were done.
        """
        config, folder = self.config, self.folder
        artifact = Artifact.load(built.artifact.folder)
        lineage = [dataclasses.asdict(entry) for entry in artifact.lineage]
        details = [entry["details"] for entry in lineage]
        copy_tree(built.artifact.folder, folder / "model", [RESULT])
        (folder / LOCK).write_text("\n".join(installed()) + "\n", encoding="utf-8")
        record = self._begun(built.weights, identity, stages)
        record.status = Status.OK
        record.baseline = baseline.record.fingerprint if baseline else None
        record.environment = {**record.environment, "load_while_timing": cell.load_average}
        record.lineage = lineage
        record.latency, record.speedup = cell.latency, cell.speedup
        record.cold, record.memory, record.energy = cell.cold, cell.memory, cell.energy
        record.placement, record.profile = cell.placement, cell.profile
        record.size = _size(size, cell.placement.details, baseline)
        record.parity = [d["parity"] for d in (*details, cell.placement.details) if d.get("parity")]
        record.reasons = dict(cell.reasons)
        record.notes = [*built.notes, *cell.notes]
        record.files = {**cell.files, "model": "model", "logs": "logs", "lock": LOCK}
        if artifact.lineage and config.model.representation == GivenAs.onnx:
            record.reasons["size.macs"] = (
                "the model was given as ONNX: MACs are counted on torch networks"
            )
        self._score(record, built, cell, baseline)
        for key, file in BESIDE.items():
            found = [d[key] for d in details if key in d]
            if found:
                write_json(folder / file, found[-1])
                record.files[key] = file
        return record

    def failed(self, error: PqbenchError, identity: str, stages: list[rec.Stage]) -> rec.Record:
        """The record of a failure: status, class, message, what to do, and the end of the log.

        Args:
            error: What ended the experiment.
            identity: Hash of what it depends on beside the configuration, as far as known.
            stages: Stages that were done.
        """
        path = error.log
        inside = path is not None and path.is_relative_to(self.folder)
        record = self._begun(None, identity, stages)
        record.status = error.status
        record.error = rec.ErrorInfo(
            stage=error.stage or ("measure" if stages else "plan"),
            type=error.original or type(error).__name__,
            message=mask_text(error.message),
            hint=mask_text(error.hint),
            log=str(path.relative_to(self.folder)) if path and inside else None,
            log_tail=mask_text(log_tail(path)) if path else "",
        )
        return record

    def unexpected(self, error: Exception) -> PqbenchError:
        """An error that no stage named, with its traceback in a log file.

        Args:
            error: What was raised in this process.

        Raises:
            OSError: The log cannot be written either.
        """
        path = self.folder / "logs" / _LOG
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
        first = (str(error).strip().splitlines() or [""])[0][:500]
        failure: PqbenchError
        if isinstance(error, OSError) and error.errno:
            what = f"{error.filename}: " if error.filename else ""
            failure = OutputError(f"{what}{os.strerror(error.errno)}")
        else:
            failure = PqbenchError(
                f"{type(error).__name__}: {first}", hint=f"the traceback is in {path}"
            )
            failure.original = type(error).__name__
        failure.log = path
        return failure

    def _begun(self, weights: str | None, identity: str, stages: list[rec.Stage]) -> rec.Record:
        """What every record has, however it ends."""
        config = self.config
        return rec.Record(
            status=Status.FAILED,
            experiment=rec.Experiment(
                model=config.model.name,
                task=config.model.task,
                dataset=config.dataset.name,
                split=config.dataset.split,
                recipe=config.recipe,
                backend=config.backend_name,
                weights=weights,
            ),
            fingerprint=self.fingerprint,
            baseline=None,
            created=datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds"),
            sequence=next_number(Path(config.outputs).absolute()),
            seconds=round(time.perf_counter() - self._began, 3),
            command=self.command,
            config=dict(self.plain),
            environment=describe(config.threads),
            stages=stages,
            identity=identity,
        )

    def _score(
        self, record: rec.Record, built: Built, cell: CellResult, baseline: Baseline | None
    ) -> None:
        config, folder = self.config, self.folder
        why_not = _why_not_scored(config, built, cell)
        if config.model.task == NO_TASK and cell.logits is not None and baseline is not None:
            self._compare(record, built, cell, baseline)
        if why_not:
            record.reasons["accuracy"] = why_not
            return
        kind = _output_kind(built)
        record.accuracy = _score(config, folder, built.split.folder, cell, baseline, kind)
        record.files["predictions"] = PREDICTIONS
        theirs = baseline.file("logits") if baseline else None
        if config.model.task in ORDERED and theirs is not None:
            from pqbench.measure.flips import FOLDER, save_flips

            split = PreparedSplit.load(built.split.folder)
            if save_flips(split, folder / str(cell.logits), theirs, folder):
                record.files["flips"] = FOLDER
        if config.model.task in ORDERED:
            from pqbench.measure.class_order import order_note

            split = PreparedSplit.load(built.split.folder)
            note = order_note(folder / str(cell.logits), split)
            record.notes += [note] if note else []
        if cell.clean_logits is not None and built.clean:
            clean = _score(config, folder, built.clean.folder, cell, baseline, kind, True)
            record.accuracy_clean = clean
            record.files["clean_predictions"] = CLEAN_PREDICTIONS

    def _compare(
        self, record: rec.Record, built: Built, cell: CellResult, baseline: Baseline
    ) -> None:
        """Raw outputs against the baseline's, where nothing can be scored."""
        from pqbench.measure.outputs import compare_outputs

        theirs = baseline.file("logits")
        if theirs is not None:
            split = PreparedSplit.load(built.split.folder)
            figures, note = compare_outputs(self.folder / str(cell.logits), theirs, split)
            record.parity.append(figures)
            record.notes.append(note)


def _why_not_scored(config: ExperimentConfig, built: Built, cell: CellResult) -> str | None:
    if config.model.task == NO_TASK:
        return "model.task=none: outputs are compared with the baseline's, nothing is scored"
    if built.weights == "none":
        return "weights=none: random weights, nothing to score"
    if not config.dataset.scored:
        return f"data set {config.dataset.name}: made-up inputs"
    return "protocol.score=false" if cell.logits is None else None


def _score(
    config: ExperimentConfig,
    folder: Path,
    split: Path,
    cell: CellResult,
    baseline: Baseline | None,
    kind: str,
    clean: bool = False,
) -> rec.Accuracy:
    """The task's metrics of one split, paired with the baseline's sample by sample."""
    logits, name = (cell.clean_logits, "clean_logits") if clean else (cell.logits, "logits")
    return get_task(config.model.task).score(
        folder / str(logits),
        PreparedSplit.load(split),
        folder / (CLEAN_PREDICTIONS if clean else PREDICTIONS),
        baseline.file(name) if baseline else None,
        **({"kind": kind} if kind != LOGITS else {}),  # a task of the user's need not know it
    )


def _output_kind(built: Built) -> str:
    """What a user's model gives: ``logits``, ``probabilities`` or ``class_ids``."""
    lineage = Artifact.load(built.artifact.folder).lineage
    return str(lineage[0].details.get("scores", LOGITS)) if lineage else LOGITS


def _size(
    counted: Mapping[str, Any],
    details: Mapping[str, Any],
    baseline: Baseline | None,
) -> rec.Size:
    size = rec.Size(**counted)
    size.engine_bytes = details.get("engine_bytes")
    if baseline is not None:
        for name, ratio in _RATIOS.items():
            ours, theirs = getattr(size, name), getattr(baseline.record.size, name)
            if ours is not None and theirs:
                setattr(size, ratio, ours / theirs)
    return size
