"""The tasks that are shipped: classifying images, pixels and texts.

Everything else (calibration, fitting, export, timing) works on the prepared inputs and is the same
for all: a label array with one entry per sample, or per position, tells the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pqbench.core.dataset import Dataset
from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import make
from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit
from pqbench.core.task import Task
from pqbench.experiment.config import TASKS


class Classification(Task):
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
            make(dataset["source"], "dataset.source", Dataset),
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
        """See :func:`pqbench.measure.accuracy.score`."""
        from pqbench.measure.accuracy import score

        return score(outputs, split, predictions, baseline)


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
        from pqbench.data.tokenize import Tokenizer

        node = model["tokenizer"]
        if not node:
            raise ConfigError(
                "this model has no tokenizer", hint="set model.tokenizer, as conf/model/bert.yaml"
            )
        return prepare_text(
            make(dataset["source"], "dataset.source", Dataset),
            split,
            make(node, "model.tokenizer", Tokenizer),
            folder,
            settings=node,
            limit=limit,
            seed=seed,
            exclude=exclude,
            scored=dataset["split"],
        )


class Segmentation(Task):
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
            make(dataset["source"], "dataset.source", Dataset),
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
    return make({"_target_": TASKS.get(name, name)}, "model.task", Task)
