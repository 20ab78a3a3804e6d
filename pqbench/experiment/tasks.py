"""Tasks: what differs between classifying images, pixels and texts, behind one small interface.

A task prepares inputs and labels, scores a session's outputs, and says how strict parity is.
Everything else (calibration, fitting, export, timing) works on the prepared inputs and is the same
for all: a label array with one entry per sample, or per position, tells the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.dataset import Dataset, TensorDataset
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit
from pqbench.core.task import SplitRequest, Task
from pqbench.models.settings import NO_TASK

if TYPE_CHECKING:
    from pqbench.data.preprocess import Preprocess

TASKS = {
    "classification": "pqbench.experiment.tasks.Classification",
    "segmentation": "pqbench.experiment.tasks.Segmentation",
    "text_classification": "pqbench.experiment.tasks.TextClassification",
    NO_TASK: "pqbench.experiment.tasks.OutputsOnly",
}


class Classification(Task):
    """One class per image: top-1, top-5, macro F1."""

    def prepare(self, request: SplitRequest, folder: Path) -> PreparedSplit:
        """Decode, resize and crop; see :func:`pqbench.data.prepare.prepare`."""
        from pqbench.data.prepare import prepare

        return prepare(
            make(request.source, "dataset.source", Dataset),
            request.split,
            _preprocess(request),
            folder,
            limit=request.limit,
            seed=request.seed,
            on_error=request.on_error,
            threads=request.threads,
            exclude=request.exclude,
        )

    def score(
        self,
        outputs: Path,
        split: PreparedSplit,
        predictions: Path,
        baseline: Path | None,
        kind: str = "logits",
    ) -> Accuracy:
        """See :func:`pqbench.measure.accuracy.score`."""
        from pqbench.measure.accuracy import score

        return score(outputs, split, predictions, baseline, kind)


class TextClassification(Classification):
    """One class per text: the metrics of classification on tokens instead of pixels."""

    def prepare(self, request: SplitRequest, folder: Path) -> PreparedSplit:
        """Tokenize and pad; see :func:`pqbench.data.text.prepare_text`."""
        from pqbench.data.text import prepare_text
        from pqbench.data.tokenize import Tokenizer

        node = request.tokenizer
        if not node:
            raise ConfigError(
                "this model has no tokenizer", hint="set model.tokenizer, as conf/model/bert.yaml"
            )
        return prepare_text(
            make(request.source, "dataset.source", Dataset),
            request.split,
            make(node, "model.tokenizer", Tokenizer),
            folder,
            settings=node,
            limit=request.limit,
            seed=request.seed,
            exclude=request.exclude,
            scored=request.scored,
        )


class Segmentation(Task):
    """One class per pixel: mean intersection over union, pixel accuracy."""

    metric: ClassVar[str] = "miou"

    def prepare(self, request: SplitRequest, folder: Path) -> PreparedSplit:
        """Images and masks; see :func:`pqbench.data.segmentation.prepare_segmentation`."""
        from pqbench.data.segmentation import prepare_segmentation

        return prepare_segmentation(
            make(request.source, "dataset.source", Dataset),
            request.split,
            _preprocess(request),
            folder,
            limit=request.limit,
            seed=request.seed,
            on_error=request.on_error,
            threads=request.threads,
            exclude=request.exclude,
        )

    def score(
        self, outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None
    ) -> Accuracy:
        """See :func:`pqbench.measure.segmentation.score`."""
        from pqbench.measure.segmentation import score

        return score(outputs, split, predictions, baseline)


class OutputsOnly(Task):
    """No task: an ONNX file with any inputs and outputs, timed; its raw outputs are compared."""

    metric: ClassVar[str] = "none"
    min_agreement: ClassVar[float] = 0.0  # what is highest along an axis means nothing here

    def prepare(self, request: SplitRequest, folder: Path) -> PreparedSplit:
        """Arrays for the file's own inputs; images where the data set has no others to give."""
        from pqbench.data.tensors import prepare_tensors
        from pqbench.models.onnx.tensors import safe_name, sample_specs

        source = make(request.source, "dataset.source", Dataset)
        if request.onnx_file is None:
            raise ConfigError("model.task=none is for ONNX files", hint="choose model=onnx")
        if not isinstance(source, TensorDataset):
            return Classification().prepare(request, folder)
        side = request.preprocess.crop if request.preprocess is not None else 224
        given = request.onnx_file
        specs, notes = sample_specs(Path(given["file"]), side, given.get("constants", ()))
        return prepare_tensors(
            source,
            request.split,
            specs,
            [safe_name(spec.name) for spec in specs],
            folder,
            limit=request.limit,
            notes=notes if source.made_up else (),
        )

    def score(
        self,
        outputs: Path,  # noqa: ARG002
        split: PreparedSplit,  # noqa: ARG002
        predictions: Path,  # noqa: ARG002
        baseline: Path | None,  # noqa: ARG002
    ) -> Accuracy:
        """There is nothing to score.

        Raises:
            ConfigError: Always; outputs are compared by ``pqbench.measure.outputs`` instead.
        """
        raise ConfigError("model.task=none has no score")


def _preprocess(request: SplitRequest) -> Preprocess:
    from pqbench.data.preprocess import Preprocess

    if request.preprocess is None:
        raise ConfigError(
            "this model says nothing of images",
            hint="set model.preprocess, as conf/model/custom.yaml",
        )
    return Preprocess.of(request.preprocess, request.resize_mode)


def get_task(name: str) -> Task:
    """The task of a name in ``TASKS``, or of a dotted path.

    Raises:
        ConfigError: There is no such task.
    """
    if "." not in name and name not in TASKS:
        raise ConfigError(
            f"model.task={name} is not known",
            hint=f"choose from {', '.join(TASKS)}, or give the dotted path of a class",
        )
    return make({"_target_": TASKS.get(name, name)}, "model.task", Task)
