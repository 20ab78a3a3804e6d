"""What a task is: it prepares inputs and labels, scores outputs, and says how strict parity is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit


class Task(ABC):
    """Named in ``pqbench.experiment.config.TASKS``, or by the dotted path of a class of your own.

    Attributes:
        metric: Field of :class:`pqbench.core.record.Accuracy` that drops refer to.
        min_agreement: Least share of samples whose highest output stays in a conversion.
    """

    metric: ClassVar[str] = "top1"
    min_agreement: ClassVar[float] = 0.97

    @abstractmethod
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

    @abstractmethod
    def score(
        self, outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None
    ) -> Accuracy:
        """Score saved outputs, and compare them with the baseline's on the same split.

        Args:
            outputs: The first output for every sample, a ``.npy`` file.
            split: What they were computed from.
            predictions: Parquet file to write: one row per sample.
            baseline: The baseline's outputs, where there is a baseline.
        """
