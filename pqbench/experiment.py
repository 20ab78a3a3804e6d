"""One experiment from start to end: the only module that knows the order of the stages.

prepare -> (fit) -> steps and conversions, as planned -> deploy and measure -> record. The baseline
of a recipe is an experiment of its own, found or run first, so that every record can carry speedup,
size ratio and accuracy drop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench import record as rec
from pqbench import stop
from pqbench.artifact import Artifact, write_json
from pqbench.cache import RESULT, Cache
from pqbench.compress.recipe import Action, plan
from pqbench.data.base import DataIndex
from pqbench.environment import describe, installed
from pqbench.errors import (
    OutputError,
    PqbenchError,
    SkippedError,
    Status,
    UnavailableError,
    UnsupportedError,
)
from pqbench.failure import failure_record, now, unexpected
from pqbench.finished import FinishedRecords, identity, link_tree
from pqbench.inputs import PreparedSplit
from pqbench.schema import baseline_config, fingerprint, make
from pqbench.stage import StageResult, StageRunner, StageSpec
from pqbench.tasks import get_task
from pqbench.tracking.fetch import fetch
from pqbench.tracking.settings import TrackingSettings
from pqbench.worker import cell_timeout

log = logging.getLogger("pqbench")
PREDICTIONS = "predictions.parquet"
CLEAN = "clean"
CLEAN_PREDICTIONS = "predictions_clean.parquet"
LOCK = "requirements.txt"
SENSITIVITY = "sensitivity.json"


@dataclass
class Deployable:
    """What the stages before measuring made.

    Attributes:
        artifact: Folder of the artifact that the backend loads.
        network: Folder of the last ``torch`` artifact: its parameters and MACs are counted.
        split: Folder of the scored split.
        clean: Folder of the split that no pretraining saw, where the scored one is not clean.
        weights: Where the weights came from.
        stages: What ran, for the record.
        notes: What a reader must know.
        card: Figures and licence of the weights.
    """

    artifact: StageResult
    network: StageResult
    split: StageResult
    clean: StageResult | None
    weights: str
    stages: list[rec.Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)


class ExperimentRun:
    """One experiment on its way: configuration, folders, and what has been done so far.

    Args:
        config: The resolved, validated configuration.
        folder: Where the record and the files beside it go.
        overrides: The arguments that composed it, for the command that reproduces it.
    """

    def __init__(
        self, config: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()
    ) -> None:
        self.config = dict(config)
        self.folder = folder
        self.overrides = list(overrides)
        self.command = shlex.join(["python", "-m", "pqbench", *overrides])
        self.fingerprint = fingerprint(config)
        self.threads: int = config["threads"]
        self.cache = open_cache(config)
        self.runner = StageRunner(self.cache, folder / "work", folder / "logs")
        self.finished = FinishedRecords(self.cache, folder, self.fingerprint)
        self.identity = ""
        self.began = time.perf_counter()
        self.deadline: float | None = None
        self.done: list[rec.Stage] = []
        self.deployable: Deployable | None = None

    # -- names -------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """``model · recipe · backend``, as in tables."""
        recipe = "+".join(self.config["compress"]) or "none"
        return f"{self.config['model']['name']} · {recipe} · {self.config['backend']['name']}"

    def _experiment(self, weights: str | None) -> rec.Experiment:
        config = self.config
        return rec.Experiment(
            model=config["model"]["name"],
            task=config["model"]["task"],
            dataset=config["dataset"]["name"],
            split=config["dataset"]["split"],
            recipe=list(config["compress"]),
            backend=config["backend"]["name"],
            weights=weights,
        )

    # -- stages ------------------------------------------------------------------------------

    def _stage(
        self,
        name: str,
        arguments: dict[str, Any],
        rooms: tuple[str, ...],
        made: Mapping[str, StageResult | None] = {},
        key: Mapping[str, Any] | None = None,
        function: str | None = None,
    ) -> StageResult:
        """Run a stage; ``made`` are folders of earlier stages, which enter by their keys."""
        folders = {k: str(v.folder) if v is not None else None for k, v in made.items()}
        keys = {k: v.key if v is not None else None for k, v in made.items()}
        stop.check()
        timeout = self.config["protocol"]["stage_timeout_s"]
        if self.deadline is not None:
            timeout = min(timeout, self.deadline - time.monotonic())
            if timeout <= 0:
                raise cell_timeout(f"before stage {name}")
        spec = StageSpec(
            name=name,
            function=f"pqbench.stages:{function or name}",
            arguments={**arguments, **folders},
            rooms=rooms,
            key={**(key if key is not None else arguments), **keys},
            timeout_s=timeout,
            threads=self.threads,
            memory_mb=self.config["limits"]["memory_mb"],
        )
        with _status(f"{self.title}: {name}"):
            result = self.runner.run(spec)
        log.info("    %-18s %s", name, "found" if result.cached else f"{result.seconds:.1f} s")
        self.done.append(
            rec.Stage(name, round(result.seconds, 3), result.cached, result.rss_peak_mb)
        )
        return result

    def _split(
        self, index: DataIndex, listing: str, name: str, exclude: Sequence[str] = ()
    ) -> StageResult:
        config = self.config
        dataset, preprocess = config["dataset"], config["model"]["preprocess"]
        index.split(name)
        arguments = {
            "dataset": dataset,
            "task": config["model"]["task"],
            "preprocess": preprocess,
            "tokenizer": config["model"]["tokenizer"],
            "split": name,
            "exclude": list(exclude),
            "limit": dataset["train_limit" if name == "train" else "limit"],
            "seed": config["seed"],
        }
        content = {
            **{k: v for k, v in arguments.items() if k != "dataset"},
            "listing": listing,
            "scored": dataset["split"],
            "on_error": dataset["on_error"],
            "resize_mode": dataset["resize_mode"],
        }
        return self._stage(
            f"prepare_{name}",
            {**arguments, "threads": self.threads},
            ("data",),
            key=content,
            function="prepare_split",
        )

    def deploy(self, index: DataIndex, listing: str, actions: list[Action]) -> Deployable:
        """Everything before measuring: data, weights, fit, recipe, conversions."""
        config = self.config
        model, seed = config["model"], config["seed"]
        scored = self._split(index, listing, config["dataset"]["split"])
        # The tools that quantize ONNX want a newer opset than a user's file may have.
        upgrade = model["representation"] == "onnx" and bool(config["compress"])
        prepared = self._stage(
            "prepare_model",
            {
                "model": model,
                "dataset_name": config["dataset"]["name"],
                "scratch_ok": config["dataset"]["scratch"],
                "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
                "seed": seed,
                "upgrade": upgrade,
            },
            ("models",),
            made={"split": scored},
            key={
                "model": model,
                "upgrade": upgrade,
                "weights_file": _file_stamp(model["weights_file"] or model["file"]),
                "dataset_name": config["dataset"]["name"],
                "scratch_ok": config["dataset"]["scratch"],
                "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
                "seed": seed,
            },
        )
        self._check_batch(Artifact.load(prepared.folder))
        weights, card = prepared.value["weights"], prepared.value["card"]
        method = config["fit"]["method"]
        if method == "auto":
            method = prepared.value["needs_fit"] or "none"
            if not config["dataset"]["scored"]:
                method = "none"  # nothing will be scored, so nothing need be learnt
        elif method != "none" and model["representation"] != "torch":
            raise UnsupportedError(
                f"fit.method={method} trains a torch network, the model is given as "
                f"{model['representation']}",
                hint="use fit.method=none",
            )
        split = config["dataset"]["split"]
        # An ImageNet model has seen most of what fastai calls validation images: also score those
        # that it has not, and keep them out of the training ones.
        pretrained = weights == "pretrained" and method == "none"
        clean: StageResult | None = None
        if pretrained and CLEAN in index.splits and split != CLEAN:
            clean = self._split(index, listing, CLEAN)
        train: StageResult | None = None
        if method != "none" or any(a.kind == "step" for a in actions):
            train = self._split(index, listing, "train", [split, *([CLEAN] if clean else [])])
        current = prepared
        if method != "none":
            settings = {k: v for k, v in config["fit"].items() if k != "method"}
            if settings["train_size"] is not None:  # never larger than what the model is fed
                settings["train_size"] = min(settings["train_size"], model["preprocess"]["crop"])
            current = self._stage(
                "fit",
                {
                    "method": method,
                    "head": model["head"],
                    "settings": settings,
                    "seed": seed,
                    "threads": self.threads,
                },
                ("data", "training"),
                made={"artifact": current, "train": train, "scored": scored},
            )
        source = network = current
        for action in actions:
            if action.kind == "convert":
                current = self._stage(
                    f"to_{action.after}",
                    {"to": action.after, "task": model["task"]},
                    ("export",),
                    made={"artifact": current, "split": scored},
                    function="convert",
                )
                continue
            current = self._stage(
                action.name,
                {
                    "name": action.name,
                    "step": config["compress"][action.name],
                    "seed": seed,
                    "threads": self.threads,
                },
                ("compress", "data", "training"),
                made={
                    "artifact": current,
                    "train": train,
                    "scored": scored,
                    "clean": clean,
                    "teacher": source,
                },
                function="apply_step",
            )
            # An integer layer's work and parameters are counted as those it stands for.
            step = make(config["compress"][action.name], f"compress.{action.name}")
            if action.after == "torch" and step.kind != "quantize":
                network = current
        notes = list(scored.value["notes"])
        if weights == "none":
            notes.append("weights=none: random weights, so accuracy means nothing")
        return Deployable(current, network, scored, clean, weights, self.done, notes, card)

    def _check_batch(self, source: Artifact) -> None:
        """Refuse what a model with a fixed batch (a user's ONNX file) cannot do."""
        fixed = source.inputs[0].shape[0] if source.inputs else None
        if fixed is None:
            return
        sizes = list(self.config["protocol"]["batch_sizes"])
        if sizes != [fixed]:
            raise UnsupportedError(
                f"{source.file} has its batch fixed to {fixed}, protocol.batch_sizes asks for "
                f"{sizes}",
                hint=f"set protocol.batch_sizes=[{fixed}], or export it with a free batch",
            )
        if fixed != 1 and self.config["compress"]:
            raise UnsupportedError(
                f"{source.file} has its batch fixed to {fixed}: calibration feeds one sample",
                hint="export it with a free batch, or use compress=none",
            )

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> rec.Record:
        """Find or run the experiment; never raises for a failure of the experiment itself.

        Returns:
            The record, saved in ``folder``; its status says how it ended.

        Raises:
            OutputError: The record cannot be written.
            Stopped: The user has asked to stop.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            record = self._failed_before()
            if record is not None:
                return record
            try:
                record = self._run()
            except PqbenchError as error:
                record = self._failure(error)
            except Exception as error:  # the boundary of the experiment: reported, never hidden
                record = self._failure(unexpected(error, self.folder / "logs"))
            record.save(self.folder)
        except OSError as error:
            raise OutputError(
                f"cannot write to {self.folder}: {error.strerror or error}",
                hint="free space or set outputs= to a folder that can be written; the same command "
                "goes on from what is finished",
            ) from error
        finally:
            if self.cache is not None:
                self.cache.close()
        return record

    def _failure(self, error: PqbenchError) -> rec.Record:
        log.warning("  %s: %s: %s", self.title, error.status, error)
        record = failure_record(
            error,
            self.folder,
            experiment=self._experiment(None),
            fingerprint=self.fingerprint,
            seconds=round(time.perf_counter() - self.began, 3),
            command=self.command,
            config=self.config,
            threads=self.threads,
            stages=self.done,
        )
        record.identity = identity(self.config, self.threads, None)
        return record

    def _run(self) -> rec.Record:
        config = self.config
        backend = make(config["backend"], "backend")
        steps = {k: make(v, f"compress.{k}") for k, v in config["compress"].items()}
        try:
            start = config["model"]["representation"]
            actions = plan(steps, start, backend.loads, config["backend"]["name"])
        except UnsupportedError:
            if config["compress"]:
                self._baseline()  # what this backend can do is still worth a row
            raise
        available = backend.availability()
        if not available.available:
            raise UnavailableError(
                f"backend {config['backend']['name']}: {available.reason}", hint=available.hint
            )
        index = make(config["dataset"]["source"], "dataset.source").index()
        listing = index.listing_hash()
        self.identity = identity(config, self.threads, listing)
        found = self._find()
        if found is not None:
            return found
        base, baseline = self._baseline() if config["compress"] else (None, None)
        if baseline is not None and not baseline.ok:
            why = baseline.error.message if baseline.error else ""
            raise SkippedError(f"its baseline failed ({baseline.status}): {why}")
        log.info("  %s", self.title)
        self.began = time.perf_counter()
        limit = config["limits"]["cell_s"]
        self.deadline = None if limit is None else time.monotonic() + limit
        self.deployable = self.deploy(index, listing, actions)
        other: Artifact | None = None
        if base is not None:
            if base.deployable is None:  # its record was found: find its model as well
                base.deployable = base.deploy(index, listing, plan({}, start, backend.loads, ""))
            other = Artifact.load(base.deployable.artifact.folder)
        record = self._measure(self.deployable, other, base, baseline)
        self.finished.keep(record)  # before the record is in its folder: found if we die between
        return record

    def _baseline(self) -> tuple[ExperimentRun, rec.Record]:
        """Find or run the same experiment with the empty recipe."""
        rest = [
            o for o in self.overrides if not o.lstrip("+").startswith(("compress=", "compress."))
        ]
        base = ExperimentRun(
            baseline_config(self.config), self.folder / "baseline", [*rest, "compress=none"]
        )
        return base, base.run()

    def _measure(
        self,
        deployable: Deployable,
        other: Artifact | None,
        base: ExperimentRun | None,
        baseline: rec.Record | None,
    ) -> rec.Record:
        from pqbench.deploy import SideSpec, run_cell
        from pqbench.measure.protocol import Protocol

        config = self.config
        split = deployable.split.folder
        stop.check()
        began = time.perf_counter()
        result = run_cell(
            SideSpec(config["backend"], deployable.artifact.folder, split, "candidate"),
            SideSpec(config["backend"], other.folder, split, "baseline") if other else None,
            Protocol(**config["protocol"]),
            self.folder,
            threads=self.threads,
            clean=deployable.clean.folder if deployable.clean else None,
            memory_mb=config["limits"]["memory_mb"],
            deadline=self.deadline,
        )
        seconds = time.perf_counter() - began
        log.info("    %-18s %.1f s", "measure", seconds)
        self.done.append(rec.Stage("measure", round(seconds, 3), False, result.memory.rss_peak_mb))
        artifact = Artifact.load(deployable.artifact.folder)
        lineage = [dataclasses.asdict(entry) for entry in artifact.lineage]
        link_tree(deployable.artifact.folder, self.folder / "model", [RESULT])
        reasons = dict(result.reasons)
        if artifact.lineage and config["model"]["representation"] == "onnx":
            reasons["size.macs"] = "the model was given as ONNX: MACs are counted on torch networks"
        accuracy: rec.Accuracy | None = None
        if deployable.weights == "none":
            reasons["accuracy"] = "weights=none: random weights, nothing to score"
        elif not config["dataset"]["scored"]:
            reasons["accuracy"] = f"data set {config['dataset']['name']}: made-up inputs"
        elif result.logits is None:
            reasons["accuracy"] = "protocol.score=false"
        else:
            accuracy = get_task(config["model"]["task"]).score(
                self.folder / result.logits,
                PreparedSplit.load(split),
                self.folder / PREDICTIONS,
                _file_of(base, baseline, "logits"),
            )
        accuracy_clean: rec.Accuracy | None = None
        if accuracy is not None and result.clean_logits is not None and deployable.clean:
            accuracy_clean = get_task(config["model"]["task"]).score(
                self.folder / result.clean_logits,
                PreparedSplit.load(deployable.clean.folder),
                self.folder / CLEAN_PREDICTIONS,
                _file_of(base, baseline, "clean_logits"),
            )
        scans = [e["details"]["sensitivity"] for e in lineage if "sensitivity" in e["details"]]
        if scans:
            write_json(self.folder / SENSITIVITY, scans[-1])
        (self.folder / LOCK).write_text("\n".join(installed()) + "\n", encoding="utf-8")
        return rec.Record(
            status=Status.OK,
            experiment=self._experiment(deployable.weights),
            fingerprint=self.fingerprint,
            baseline=baseline.fingerprint if baseline else None,
            created=now(),
            seconds=round(time.perf_counter() - self.began, 3),
            command=self.command,
            config=self.config,
            environment={**describe(self.threads), "load_while_timing": result.load_average},
            stages=self.done,
            lineage=lineage,
            latency=result.latency,
            speedup=result.speedup,
            cold=result.cold,
            memory=result.memory,
            energy=result.energy,
            size=self._size(deployable, baseline, result.placement.details),
            accuracy=accuracy,
            accuracy_clean=accuracy_clean,
            parity=[e["details"]["parity"] for e in lineage if "parity" in e["details"]],
            placement=result.placement,
            profile=result.profile,
            reasons=reasons,
            notes=[*deployable.notes, *result.notes],
            files={
                **result.files,
                **({"predictions": PREDICTIONS} if accuracy else {}),
                **({"clean_predictions": CLEAN_PREDICTIONS} if accuracy_clean else {}),
                **({"sensitivity": SENSITIVITY} if scans else {}),
                "model": "model",
                "logs": "logs",
                "lock": LOCK,
            },
            identity=self.identity,
        )

    def _size(
        self, deployable: Deployable, baseline: rec.Record | None, details: Mapping[str, Any]
    ) -> rec.Size:
        from pqbench.measure.size import measure_files

        work = self._stage("count_work", {}, ("measure",), made={"network": deployable.network})
        size = rec.Size(**measure_files(Artifact.load(deployable.artifact.folder)), **work.value)
        size.engine_bytes = details.get("engine_bytes")
        if baseline is not None:
            for name, ratio in (
                ("file_bytes", "file_ratio"),
                ("parameters", "parameter_ratio"),
                ("macs", "macs_ratio"),
            ):
                ours, theirs = getattr(size, name), getattr(baseline.size, name)
                if ours is not None and theirs:
                    setattr(size, ratio, ours / theirs)
        return size

    # -- finding -------------------------------------------------------------------------------

    def _find(self) -> rec.Record | None:
        """The finished record: where it goes, in the cache, or in the tracking store."""
        if self.config["force"]:
            return None
        record, where = self.finished.here(), "found"
        if record is not None and not (record.ok and record.identity == self.identity):
            record = None
        if record is None:
            record = self.finished.kept(self.identity)
        if record is None and self.cache is not None:
            settings = TrackingSettings.from_config(self.config)
            record, where = (
                fetch(settings, self.fingerprint, self.identity, self.folder),
                "found in the tracking store",
            )
            if record is not None:
                self.finished.keep(record)
        if record is not None:
            log.info(
                "  %s: %s, measured %s (force=true measures again)",
                self.title,
                where,
                record.created,
            )
        return record

    def _failed_before(self) -> rec.Record | None:
        """The failure that a resumed sweep recorded in this folder, unless it is to be retried."""
        if self.config["force"] or self.config["retry"] == "failed" or self.cache is None:
            return None
        record = self.finished.here()
        if (
            record is None
            or record.ok
            or record.identity != identity(self.config, self.threads, None)
        ):
            return None
        log.info("  %s: %s before (retry=failed runs it again)", self.title, record.status)
        return record


def _status(text: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere; never shown while something is timed."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def _file_of(run: ExperimentRun | None, record: rec.Record | None, name: str) -> Path | None:
    """A file of another experiment's record, or None without one."""
    return run.folder / record.files[name] if run and record and name in record.files else None


def open_cache(config: Mapping[str, Any]) -> Cache | None:
    """The cache that a configuration names; None if it is switched off."""
    if not config["cache"]:
        return None
    return Cache(Path(config["outputs"]).absolute() / "cache", config["limits"]["cache_gb"])


def _file_stamp(path: str | None) -> list[Any] | None:
    if path is None or not Path(path).is_file():
        return None
    stat = Path(path).stat()
    return [path, stat.st_size, stat.st_mtime_ns]
