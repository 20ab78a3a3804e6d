"""Making what a backend loads: the order of the stages before anything is measured.

prepare -> (fit) -> steps and conversions, as planned. Each is a stage, found or computed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pqbench.compress.recipe import Action
from pqbench.core import interrupt as stop
from pqbench.core import record as rec
from pqbench.core.artifact import Artifact
from pqbench.core.dataset import DataIndex
from pqbench.core.errors import UnsupportedError
from pqbench.core.instantiate import make
from pqbench.core.step import Step
from pqbench.workers.child import cell_timeout
from pqbench.workers.stage import StageResult, StageRunner, StageSpec

log = logging.getLogger("pqbench")
CLEAN = "clean"


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


class Maker:
    """Makes the deployable of one experiment and keeps account of the stages.

    Args:
        config: The resolved, validated configuration.
        runner: Finds or computes stages.

    Attributes:
        done: What ran, for the record.
        deadline: When the experiment must end, on the monotonic clock in s; None: no limit.
    """

    def __init__(self, config: Mapping[str, Any], runner: StageRunner) -> None:
        self.config = config
        self.runner = runner
        self.threads: int = config["threads"]
        self.done: list[rec.Stage] = []
        self.deadline: float | None = None

    @property
    def title(self) -> str:
        """``model · recipe · backend``, as in tables."""
        recipe = "+".join(self.config["compress"]) or "none"
        return f"{self.config['model']['name']} · {recipe} · {self.config['backend']['name']}"

    def stage(
        self,
        name: str,
        arguments: dict[str, Any],
        made: Mapping[str, StageResult | None] = {},
        key: Mapping[str, Any] | None = None,
        function: str | None = None,
        resumable: bool = False,
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
            function=f"pqbench.experiment.stages:{function or name}",
            arguments={**arguments, **folders},
            key={**(key if key is not None else arguments), **keys},
            timeout_s=timeout,
            threads=self.threads,
            memory_mb=self.config["limits"]["memory_mb"],
            resumable=resumable,
            made=tuple(k for k, v in folders.items() if v is not None),
        )
        with _status(f"{self.title}: {name}"):
            result = self.runner.run(spec)
        self.note(name, result.seconds, result.rss_peak_mb, result.cached)
        return result

    def note(
        self, name: str, seconds: float, rss_peak_mb: float | None, cached: bool = False
    ) -> None:
        """Take account of a stage that is done, and say so."""
        log.info("    %-18s %s", name, "found" if cached else f"{seconds:.1f} s")
        self.done.append(rec.Stage(name, round(seconds, 3), cached, rss_peak_mb))

    def count_work(self, deployable: Deployable) -> dict[str, Any]:
        """Parameters and MACs of the deployable's network."""
        made = {"network": deployable.network}
        return self.stage("count_work", {}, made=made).value

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
        return self.stage(
            f"prepare_{name}",
            {**arguments, "threads": self.threads},
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
        prepared = self.stage(
            "prepare_model",
            {
                "model": model,
                "dataset_name": config["dataset"]["name"],
                "scratch_ok": config["dataset"]["scratch"],
                "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
                "seed": seed,
                "upgrade": upgrade,
            },
            made={"split": scored},
            key={
                "model": model,
                "upgrade": upgrade,
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
            current = self.stage(
                "fit",
                {
                    "method": method,
                    "head": model["head"],
                    "settings": settings,
                    "seed": seed,
                    "threads": self.threads,
                },
                made={"artifact": current, "train": train, "scored": scored},
                resumable=True,
            )
        source = network = current
        for action in actions:
            if action.kind == "convert":
                current = self.stage(
                    f"to_{action.after}",
                    {"to": action.after, "task": model["task"]},
                    made={"artifact": current, "split": scored},
                    function="convert",
                )
                continue
            current = self.stage(
                action.name,
                {
                    "name": action.name,
                    "step": config["compress"][action.name],
                    "seed": seed,
                    "threads": self.threads,
                },
                made={
                    "artifact": current,
                    "train": train,
                    "scored": scored,
                    "clean": clean,
                    "teacher": source,
                },
                function="apply_step",
                resumable=True,
            )
            # An integer layer's work and parameters are counted as those it stands for.
            step = make(config["compress"][action.name], f"compress.{action.name}", Step)
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


def _status(text: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere; never shown while something is timed."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
