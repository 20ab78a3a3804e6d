"""One experiment from start to end: the only module that knows the order of the stages.

prepare -> (fit) -> steps and conversions, as planned -> deploy and measure -> record. The baseline
of a recipe is an experiment of its own, found or run first, so that every record can carry speedup,
size ratio and accuracy drop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pqbench import record as rec
from pqbench.artifact import Artifact
from pqbench.compress.recipe import Action, plan
from pqbench.data.base import DataIndex
from pqbench.environment import describe, installed
from pqbench.errors import DataError, PqbenchError, Status, UnavailableError, UnsupportedError
from pqbench.inputs import PreparedSplit
from pqbench.schema import baseline_config, fingerprint, make
from pqbench.stage import (
    RESULT,
    StageResult,
    StageRunner,
    StageSpec,
    code_hash,
    library_versions,
    log_tail,
)

log = logging.getLogger("pqbench")
PREDICTIONS = "predictions.parquet"
LOCK = "requirements.txt"
ROOMS = ("backends", "compress", "data", "export", "measure", "models", "training")
MEASURING = ("deploy.py", "experiment.py", "worker.py")


@dataclass
class Deployable:
    """What the stages before measuring made.

    Attributes:
        artifact: Folder of the artifact that the backend loads.
        network: Folder of the last ``torch`` artifact: its parameters and MACs are counted.
        split: Folder of the scored split.
        weights: Where the weights came from.
        stages: What ran, for the record.
        notes: What a reader must know.
        card: Figures and licence of the weights.
    """

    artifact: StageResult
    network: StageResult
    split: StageResult
    weights: str
    stages: list[rec.Stage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)


def listing_hash(index: DataIndex) -> str:
    """Hash of every file's path, size and time of change, and of the labels."""
    digest = hashlib.sha256(json.dumps([index.classes, index.imagenet_indices]).encode())
    for name, split in sorted(index.splits.items()):
        for path, label in zip(split.files, split.labels, strict=True):
            try:
                stat = path.stat()
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror}") from error
            digest.update(f"{name}:{path}:{stat.st_size}:{stat.st_mtime_ns}:{label}\n".encode())
    return digest.hexdigest()


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
        outputs = Path(config["outputs"]).absolute()
        self.cache = outputs / "cache" if config["cache"] else None
        self.runner = StageRunner(self.cache, folder / "work", folder / "logs")
        self.began = time.perf_counter()
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
        spec = StageSpec(
            name=name,
            function=f"pqbench.stages:{function or name}",
            arguments={**arguments, **folders},
            rooms=rooms,
            key={**(key if key is not None else arguments), **keys},
            timeout_s=self.config["protocol"]["stage_timeout_s"],
            threads=self.threads,
        )
        with _status(f"{self.title}: {name}"):
            result = self.runner.run(spec)
        log.info("    %-18s %s", name, "found" if result.cached else f"{result.seconds:.1f} s")
        self.done.append(
            rec.Stage(name, round(result.seconds, 3), result.cached, result.rss_peak_mb)
        )
        return result

    def _split(self, index: DataIndex, listing: str, name: str) -> StageResult:
        config = self.config
        dataset, preprocess = config["dataset"], config["model"]["preprocess"]
        scored = dataset["split"]
        index.split(name)
        arguments = {
            "dataset": dataset,
            "preprocess": preprocess,
            "split": name,
            "exclude": None if name == scored else scored,
            "limit": dataset["limit"] if name == scored else dataset["train_limit"],
            "seed": config["seed"],
        }
        content = {
            **{k: v for k, v in arguments.items() if k != "dataset"},
            "listing": listing,
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
        prepared = self._stage(
            "prepare_model",
            {
                "model": model,
                "dataset_name": config["dataset"]["name"],
                "scratch_ok": config["dataset"]["scratch"],
                "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
                "seed": seed,
            },
            ("models",),
            made={"split": scored},
            key={
                "model": model,
                "weights_file": _file_stamp(model["weights_file"]),
                "dataset_name": config["dataset"]["name"],
                "scratch_ok": config["dataset"]["scratch"],
                "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
                "seed": seed,
            },
        )
        weights, card = prepared.value["weights"], prepared.value["card"]
        method = config["fit"]["method"]
        if method == "auto":
            method = prepared.value["needs_fit"] or "none"
        train: StageResult | None = None
        if method != "none" or any(a.kind == "step" for a in actions):
            train = self._split(index, listing, "train")
        current = prepared
        if method != "none":
            settings = {k: v for k, v in config["fit"].items() if k != "method"}
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
                    {"to": action.after},
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
                made={"artifact": current, "train": train, "scored": scored, "teacher": source},
                function="apply_step",
            )
            if action.after == "torch":
                network = current
        notes = list(scored.value["notes"])
        if weights == "none":
            notes.append("weights=none: random weights, so accuracy means nothing")
        return Deployable(current, network, scored, weights, self.done, notes, card)

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> rec.Record:
        """Find or run the experiment; never raises for a failure of the experiment itself.

        Returns:
            The record, saved in ``folder``; its status says how it ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            record = self._run()
        except PqbenchError as error:
            record = self._failure(error)
            log.warning("  %s: %s: %s", self.title, record.status, error)
        record.save(self.folder)
        return record

    def _run(self) -> rec.Record:
        config = self.config
        backend = make(config["backend"], "backend")
        steps = {k: make(v, f"compress.{k}") for k, v in config["compress"].items()}
        try:
            actions = plan(steps, "torch", backend.loads, config["backend"]["name"])
        except UnsupportedError:
            self._baseline()  # what this backend can do is still worth a row
            raise
        available = backend.availability()
        if not available.available:
            raise UnavailableError(
                f"backend {config['backend']['name']}: {available.reason}", hint=available.hint
            )
        index = make(config["dataset"]["source"], "dataset.source").index()
        listing = listing_hash(index)
        store = self._store(listing)
        found = self._find(store)
        if found is not None:
            return found
        base, baseline = self._baseline() if config["compress"] else (None, None)
        if baseline is not None and not baseline.ok:
            why = baseline.error.message if baseline.error else ""
            raise PqbenchError(f"its baseline failed ({baseline.status}): {why}")
        log.info("  %s", self.title)
        self.began = time.perf_counter()
        self.deployable = self.deploy(index, listing, actions)
        other: Artifact | None = None
        if base is not None:
            if base.deployable is None:  # its record was found: find its model as well
                base.deployable = base.deploy(index, listing, plan({}, "torch", backend.loads, ""))
            other = Artifact.load(base.deployable.artifact.folder)
        record = self._measure(self.deployable, other, base, baseline)
        if store is not None:
            record.save(self.folder)
            shutil.rmtree(store, ignore_errors=True)
            _copy_record(self.folder, store)
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
        from pqbench.measure.accuracy import score
        from pqbench.measure.protocol import Protocol

        config = self.config
        split = deployable.split.folder
        began = time.perf_counter()
        result = run_cell(
            SideSpec(config["backend"], deployable.artifact.folder, split, "candidate"),
            SideSpec(config["backend"], other.folder, split, "baseline") if other else None,
            Protocol(**config["protocol"]),
            self.folder,
            threads=self.threads,
        )
        seconds = time.perf_counter() - began
        log.info("    %-18s %.1f s", "measure", seconds)
        self.done.append(rec.Stage("measure", round(seconds, 3), False, result.memory.rss_peak_mb))
        artifact = Artifact.load(deployable.artifact.folder)
        lineage = [dataclasses.asdict(entry) for entry in artifact.lineage]
        link_tree(deployable.artifact.folder, self.folder / "model", [RESULT])
        reasons = dict(result.reasons)
        accuracy: rec.Accuracy | None = None
        if deployable.weights == "none":
            reasons["accuracy"] = "weights=none: random weights, nothing to score"
        elif result.logits is None:
            reasons["accuracy"] = "protocol.score=false"
        else:
            theirs = base.folder / baseline.files["logits"] if base and baseline else None
            accuracy = score(
                self.folder / result.logits,
                PreparedSplit.load(split),
                self.folder / PREDICTIONS,
                baseline_logits=theirs,
            )
        (self.folder / LOCK).write_text("\n".join(installed()) + "\n", encoding="utf-8")
        return rec.Record(
            status=Status.OK,
            experiment=self._experiment(deployable.weights),
            fingerprint=self.fingerprint,
            baseline=baseline.fingerprint if baseline else None,
            created=_now(),
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
            size=self._size(deployable, baseline),
            accuracy=accuracy,
            parity=[e["details"]["parity"] for e in lineage if "parity" in e["details"]],
            placement=result.placement,
            profile=result.profile,
            reasons=reasons,
            notes=[*deployable.notes, *result.notes],
            files={
                **result.files,
                **({"predictions": PREDICTIONS} if accuracy else {}),
                "model": "model",
                "logs": "logs",
                "lock": LOCK,
            },
        )

    def _size(self, deployable: Deployable, baseline: rec.Record | None) -> rec.Size:
        from pqbench.measure.size import measure_files

        work = self._stage("count_work", {}, ("measure",), made={"network": deployable.network})
        size = rec.Size(**measure_files(Artifact.load(deployable.artifact.folder)), **work.value)
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

    # -- finding and failing -------------------------------------------------------------------

    def _store(self, listing: str) -> Path | None:
        """Where a finished record of this experiment, data, code and machine is kept."""
        if self.cache is None:
            return None
        environment = describe(self.threads)
        value = [
            self.fingerprint,
            listing,
            code_hash((*ROOMS, *MEASURING)),
            library_versions(),
            environment["cpu"]["model"],
            self.threads,
        ]
        key = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        return self.cache / "records" / f"{self.fingerprint}-{key}"

    def _find(self, store: Path | None) -> rec.Record | None:
        if store is None or self.config["force"] or not (store / rec.FILE).is_file():
            return None
        try:
            record = rec.Record.load(store)
            if record.altered:
                raise DataError("it was altered after it was written")
            _copy_record(store, self.folder)
        except (DataError, OSError) as error:
            log.warning("  %s: its stored record is unusable: %s", self.title, error)
            return None
        log.info("  %s: found, measured %s (force=true measures again)", self.title, record.created)
        return record

    def _failure(self, error: PqbenchError) -> rec.Record:
        stage = getattr(error, "stage", "plan" if not self.done else "measure")
        path: Path | None = getattr(error, "log", None)
        return rec.Record(
            status=error.status,
            experiment=self._experiment(None),
            fingerprint=self.fingerprint,
            baseline=None,
            created=_now(),
            seconds=round(time.perf_counter() - self.began, 3),
            command=self.command,
            config=self.config,
            environment=describe(self.threads),
            stages=self.done,
            error=rec.ErrorInfo(
                stage=stage,
                type=getattr(error, "original", type(error).__name__),
                message=error.message,
                hint=error.hint,
                log=str(path.relative_to(self.folder)) if path else None,
                log_tail=log_tail(path) if path else "",
            ),
        )


def _status(text: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere; never shown while something is timed."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _file_stamp(path: str | None) -> list[Any] | None:
    if path is None or not Path(path).is_file():
        return None
    stat = Path(path).stat()
    return [path, stat.st_size, stat.st_mtime_ns]


def link_tree(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Hard links to the files of a folder (copies across file systems), replacing ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
        source, target, copy_function=_link, ignore=shutil.ignore_patterns(*without, ".*")
    )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _copy_record(source: Path, target: Path) -> None:
    """Copy a record with its files; the record last, so that half a copy is none."""
    record = rec.Record.load(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in record.files.values():
        if (source / name).is_dir():
            link_tree(source / name, target / name)
        else:
            shutil.copyfile(source / name, target / name)
    record.save(target)
