"""Building what a backend loads: the order of the stages before anything is measured.

prepare -> (fit) -> steps and conversions, as planned. Each is a stage, found or computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pqbench.compress.recipe import Action
from pqbench.core import record as rec
from pqbench.core.artifact import Artifact
from pqbench.core.dataset import DataIndex
from pqbench.core.errors import UnsupportedError
from pqbench.core.instantiate import make
from pqbench.core.step import Step
from pqbench.core.task import SplitRequest
from pqbench.data.subset import LIMITED
from pqbench.experiment.config import ExperimentConfig
from pqbench.experiment.stage_calls import StageAccount, StageCall
from pqbench.models.settings import GivenAs
from pqbench.training.settings import FitMethod
from pqbench.workers.stage import StageResult, StageRunner

CLEAN = "clean"


@dataclass
class Built:
    """What the stages before measuring made.

    Attributes:
        artifact: Folder of the artifact that the backend loads.
        network: Folder of the last artifact in the form that the model was given in, before any
            quantization: its parameters and MACs are counted.
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


@dataclass(frozen=True)
class _Splits:
    """The prepared splits of an experiment; ``train`` only where something learns or calibrates."""

    scored: StageResult
    clean: StageResult | None
    train: StageResult | None

    @property
    def train_notes(self) -> list[str]:
        """What only the train split's notes say, of copies of scored images left out of it, say."""
        if self.train is None:
            return []
        known = self.scored.value["notes"]
        # How much was learned from is a setting, and the lineage's; it is no caveat.
        return [
            f"train split: {note}"
            for note in self.train.value["notes"]
            if note not in known and not note.startswith(LIMITED)
        ]


class Pipeline:
    """Builds what one experiment measures.

    Args:
        config: The validated configuration.
        runner: Finds or computes stages.

    Attributes:
        account: What ran, for the record, and when the experiment must end.
    """

    def __init__(self, config: ExperimentConfig, runner: StageRunner) -> None:
        self.config = config
        self.account = StageAccount(config, runner)
        self._run = self.account.run

    # -- the order -----------------------------------------------------------------------------

    def build(self, index: DataIndex, listing: str, actions: Sequence[Action]) -> Built:
        """Everything before measuring: data, weights, fit, recipe, conversions.

        Args:
            index: The data set's classes and splits.
            listing: ``index.listing_hash()``.
            actions: Steps and conversions, as planned.

        Raises:
            PqbenchError: A stage failed; the class says how.
        """
        scored = self._split(index, listing, self.config.dataset.split)
        model = self._model(index, scored)
        self._check_batch(Artifact.load(model.folder))
        weights: str = model.value["weights"]
        method = self._fit_method(model)
        splits = self._other_splits(index, listing, scored, weights, method, actions)
        source = self._fit(method, model, splits)
        current, network = self._recipe(actions, source, splits)
        scored = self._fewer(scored)
        notes = [*scored.value["notes"], *splits.train_notes, *model.value.get("notes", [])]
        if weights == "none":
            notes.append("weights=none: random weights, so accuracy means nothing")
        card = model.value["card"]
        return Built(
            current, network, scored, splits.clean, weights, self.account.done, notes, dict(card)
        )

    def scored_split(self, index: DataIndex, listing: str) -> Path:
        """Folder of the split that is scored, found or prepared."""
        return self._fewer(self._split(index, listing, self.config.dataset.split)).folder

    def _fewer(self, scored: StageResult) -> StageResult:
        """What is measured and scored of the split, where the protocol asks for less than all."""
        limit = self.config.protocol.score_limit
        if limit is None or limit >= scored.value["count"]:
            return scored
        arguments = {"count": limit, "seed": self.config.seed}
        return self._run(StageCall("take_samples", arguments, {"split": scored}))

    def measure_size(self, built: Built) -> dict[str, Any]:
        """Bytes, zipped bytes, parameters and MACs of what was built.

        Zipping takes seconds, so both are stages: done once for a model, in whatever cell it is.
        """
        files = self._run(StageCall("measure_files", {}, {"artifact": built.artifact})).value
        return {
            **files,
            **self._run(StageCall("count_work", {}, {"network": built.network})).value,
        }

    # -- data ----------------------------------------------------------------------------------

    def _split(
        self, index: DataIndex, listing: str, name: str, exclude: Sequence[str] = ()
    ) -> StageResult:
        config, dataset = self.config, self.config.dataset
        index.split(name)
        request = SplitRequest(
            source=dataset.source,
            split=name,
            scored=dataset.split,
            task=config.model.task,
            exclude=tuple(exclude),
            limit=dataset.train_limit if name == "train" else dataset.limit,
            seed=config.seed,
            threads=config.threads,
            on_error=dataset.on_error,
            resize_mode=dataset.resize_mode,
            preprocess=config.model.preprocess,
            tokenizer=config.model.tokenizer,
            onnx_file=config.model.onnx_file(),
        )
        return self._run(
            StageCall(
                "prepare_split",
                {"request": request.to_plain()},
                content={**request.content(), "listing": listing},
                name=f"prepare_{name}",
            )
        )

    def _other_splits(
        self,
        index: DataIndex,
        listing: str,
        scored: StageResult,
        weights: str,
        method: FitMethod,
        actions: Sequence[Action],
    ) -> _Splits:
        """The training images, and those that a pretrained model has not seen."""
        split = self.config.dataset.split
        # An ImageNet model has seen most of what fastai calls validation images: also score those
        # that it has not, and keep them out of the training ones.
        pretrained = weights == "pretrained" and method == FitMethod.none
        clean: StageResult | None = None
        if pretrained and CLEAN in index.splits and split != CLEAN:
            clean = self._split(index, listing, CLEAN)
        train: StageResult | None = None
        if method != FitMethod.none or any(a.kind == "step" for a in actions):
            train = self._split(index, listing, "train", [split, *([CLEAN] if clean else [])])
        return _Splits(scored, clean, train)

    # -- the model -----------------------------------------------------------------------------

    def _model(self, index: DataIndex, scored: StageResult) -> StageResult:
        config, model = self.config, self.config.model
        arguments = {
            "model": asdict(model),
            "dataset_name": config.dataset.name,
            "scratch_ok": config.dataset.scratch,
            "imagenet_indices": index.imagenet_indices and list(index.imagenet_indices),
            "seed": config.seed,
            # The tools that quantize ONNX want a newer opset than a user's file may have.
            "upgrade": model.representation == GivenAs.onnx and bool(config.compress),
            # Who asks for a training may have a file's head replaced.
            "train_head": config.fit.method not in (FitMethod.auto, FitMethod.none),
        }
        return self._run(StageCall("prepare_model", arguments, {"split": scored}))

    def _fit_method(self, model: StageResult) -> FitMethod:
        """What ``fit.method=auto`` means here; refuse what cannot be trained."""
        config, method = self.config, self.config.fit.method
        if method == FitMethod.auto:
            # Where nothing will be scored, nothing need be learnt.
            needed = model.value["needs_fit"] if config.dataset.scored else None
            return FitMethod(needed or FitMethod.none)
        if method == FitMethod.none and model.value["needs_fit"] and config.dataset.scored:
            raise UnsupportedError(
                "fit.method=none would score a head of random numbers: these weights have none for "
                f"{config.dataset.name}",
                hint="use fit.method=auto, or model.weights=none to time the network alone",
            )
        if method != FitMethod.none and config.model.representation != GivenAs.torch:
            raise UnsupportedError(
                f"fit.method={method} trains a torch network, the model is given as "
                f"{config.model.representation}",
                hint="use fit.method=none",
            )
        return method

    def _fit(self, method: FitMethod, model: StageResult, splits: _Splits) -> StageResult:
        if method == FitMethod.none:
            return model
        config = self.config
        settings = config.fit.training()
        preprocess = config.model.preprocess
        if settings.train_size is not None and preprocess is not None:
            # Never larger than what the model is fed.
            settings = replace(settings, train_size=min(settings.train_size, preprocess.crop))
        return self._run(
            StageCall(
                "fit",
                {
                    "method": method,
                    "head": config.model.head,
                    "settings": asdict(settings),
                    "seed": config.seed,
                    "threads": config.threads,
                },
                {"artifact": model, "train": splits.train, "scored": splits.scored},
                resumable=True,
            )
        )

    def _recipe(
        self, actions: Sequence[Action], source: StageResult, splits: _Splits
    ) -> tuple[StageResult, StageResult]:
        """Run the steps and conversions: the result, and what is counted (``Built.network``)."""
        config = self.config
        current = network = source
        for action in actions:
            if action.kind == "convert":
                current = self._run(
                    StageCall(
                        "convert",
                        {"to": action.after, "task": config.model.task},
                        {"artifact": current, "split": splits.scored},
                        name=f"to_{action.after}",
                    )
                )
                continue
            node = config.compress[action.name]
            current = self._run(
                StageCall(
                    "apply_step",
                    {
                        "name": action.name,
                        "step": node,
                        "seed": config.seed,
                        "threads": config.threads,
                    },
                    {
                        "artifact": current,
                        "train": splits.train,
                        "scored": splits.scored,
                        "clean": splits.clean,
                        "teacher": source,
                    },
                    name=action.name,
                    resumable=True,
                )
            )
            # An integer layer's work and parameters are counted as those it stands for.
            step = make(node, f"compress.{action.name}", Step)
            if action.after == config.model.representation and step.kind != "quantize":
                network = current
        return current, network

    def _check_batch(self, source: Artifact) -> None:
        """Refuse what a model with a fixed batch (a user's ONNX file) cannot do."""
        fixed = source.inputs[0].shape[0] if source.inputs else None
        if fixed is None:
            return
        sizes = self.config.protocol.batch_sizes
        if sizes != [fixed]:
            raise UnsupportedError(
                f"{source.file} has its batch fixed to {fixed}, protocol.batch_sizes asks for "
                f"{sizes}",
                hint=f"set protocol.batch_sizes=[{fixed}], or export it with a free batch",
            )
        if fixed != 1 and self.config.compress:
            raise UnsupportedError(
                f"{source.file} has its batch fixed to {fixed}: calibration feeds one sample",
                hint="export it with a free batch, or use compress=none",
            )
