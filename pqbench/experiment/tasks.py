"""Tasks: what differs between classifying images, pixels and texts, behind one small interface.

A task prepares inputs and labels, scores a session's outputs, and says how strict parity is.
Everything else (calibration, fitting, export, timing) works on the prepared inputs and is the same
for all: a label array with one entry per sample, or per position, tells the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit
from pqbench.experiment.config import TASKS


class Task(Protocol):
    """Named in ``pqbench.experiment.config.TASKS``, or by the dotted path of a class of your own.

    Attributes:
        metric: Field of :class:`pqbench.core.record.Accuracy` that drops refer to.
        min_agreement: Least share of samples whose highest output stays in a conversion.
    """

    metric: ClassVar[str]
    min_agreement: ClassVar[float]

    def prepare(
        self,
        dataset: Mapping[str, Any],
        model: Mapping[str, Any],
        split: str,
        folder: Path,
        exclude: Sequence[str],
        limit: int | None,
        seed: int,
        threads: int,
    ) -> PreparedSplit:
        """Write a split's inputs and labels to ``folder``, as the model wants them.

        Args:
            dataset: Resolved ``dataset`` configuration.
            model: ``preprocess`` and ``tokenizer`` of the resolved ``model`` configuration.
            split: Name of the split.
            folder: Where to write.
            exclude: Names of the splits that are scored: their samples are left out.
            limit: At most so many samples.
            seed: Seeds that choice.
            threads: Threads for decoding.
        """
        ...

    def score(
        self, outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None
    ) -> Accuracy:
        """Score saved outputs, and compare them with the baseline's on the same split."""
        ...


class Classification:
    """One class per image: top-1, top-5, macro F1."""

    metric: ClassVar[str] = "top1"
    min_agreement: ClassVar[float] = 0.97

    def prepare(
        self,
        dataset: Mapping[str, Any],
        model: Mapping[str, Any],
        split: str,
        folder: Path,
        exclude: Sequence[str],
        limit: int | None,
        seed: int,
        threads: int,
    ) -> PreparedSplit:
        """Decode, resize and crop; see :func:`pqbench.data.prepare.prepare`."""
        from pqbench.data.prepare import prepare
        from pqbench.data.preprocess import Preprocess

        return prepare(
            make(dataset["source"], "dataset.source"),
            split,
            Preprocess.from_config(model["preprocess"], dataset["resize_mode"]),
            folder,
            limit=limit,
            seed=seed,
            on_error=dataset["on_error"],
            threads=threads,
            exclude=exclude,
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

    def prepare(
        self,
        dataset: Mapping[str, Any],
        model: Mapping[str, Any],
        split: str,
        folder: Path,
        exclude: Sequence[str],
        limit: int | None,
        seed: int,
        threads: int,  # noqa: ARG002  # tokenizing is a matter of seconds
    ) -> PreparedSplit:
        """Tokenize and pad; see :func:`pqbench.data.text.prepare_text`."""
        from pqbench.data.text import prepare_text

        node = model["tokenizer"]
        if not node:
            raise ConfigError(
                "this model has no tokenizer", hint="set model.tokenizer, as conf/model/bert.yaml"
            )
        return prepare_text(
            make(dataset["source"], "dataset.source"),
            split,
            make(node, "model.tokenizer"),
            folder,
            settings=node,
            limit=limit,
            seed=seed,
            exclude=exclude,
            scored=dataset["split"],
        )


class Segmentation:
    """One class per pixel: mean intersection over union, pixel accuracy."""

    metric: ClassVar[str] = "miou"
    min_agreement: ClassVar[float] = 0.97

    def prepare(
        self,
        dataset: Mapping[str, Any],
        model: Mapping[str, Any],
        split: str,
        folder: Path,
        exclude: Sequence[str],
        limit: int | None,
        seed: int,
        threads: int,
    ) -> PreparedSplit:
        """Images and masks; see :func:`pqbench.data.segmentation.prepare_segmentation`."""
        from pqbench.data.preprocess import Preprocess
        from pqbench.data.segmentation import prepare_segmentation

        return prepare_segmentation(
            make(dataset["source"], "dataset.source"),
            split,
            Preprocess.from_config(model["preprocess"], dataset["resize_mode"]),
            folder,
            limit=limit,
            seed=seed,
            on_error=dataset["on_error"],
            threads=threads,
            exclude=exclude,
        )

    def score(
        self, outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None
    ) -> Accuracy:
        """See :func:`pqbench.measure.segmentation.score`."""
        from pqbench.measure.segmentation import score

        return score(outputs, split, predictions, baseline)


def get_task(name: str) -> Task:
    """The task of a name in ``pqbench.experiment.config.TASKS``, or of a dotted path.

    Raises:
        ConfigError: There is no such task.
    """
    task: Task = make({"_target_": TASKS.get(name, name)}, "model.task")
    return task
