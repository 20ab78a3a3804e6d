"""What a task is: how inputs and labels are prepared, and how outputs are scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from pqbench.core.preprocess import OnError, PreprocessSettings, ResizeMode
from pqbench.core.record import Accuracy
from pqbench.core.split import PreparedSplit


@dataclass(frozen=True)
class SplitRequest:
    """Which samples are prepared, and how: what a split's content depends on.

    Attributes:
        source: ``_target_`` of the data set and its arguments.
        split: Name of the split.
        scored: Name of the split that is scored; the same or another one.
        task: Name of the task, or the dotted path of its class.
        exclude: Names of the splits that are scored: their samples are left out.
        limit: At most so many samples, the same share of each class; None takes all.
        seed: Seeds that choice.
        threads: Threads for decoding.
        on_error: What to do with an unreadable image.
        resize_mode: What becomes of an image that is not square.
        preprocess: Sizes and normalization of an image; None where the model is not fed images.
        tokenizer: ``_target_`` of the tokenizer and its arguments; None where there are no texts.
        onnx_file: ``file``, ``input``, ``layout`` and names of ``constants`` of a model given as
            ONNX, whose inputs decide how samples are fed; None for torch networks.
    """

    source: Mapping[str, Any]
    split: str
    scored: str
    task: str = "classification"
    exclude: Sequence[str] = ()
    limit: int | None = None
    seed: int = 0
    threads: int = 1
    on_error: OnError = OnError.fail
    resize_mode: ResizeMode = ResizeMode.crop
    preprocess: PreprocessSettings | None = None
    tokenizer: Mapping[str, Any] | None = field(default=None)
    onnx_file: Mapping[str, Any] | None = None

    def to_plain(self) -> dict[str, Any]:
        """JSON-ready values, for the process that prepares the split."""
        return asdict(self)

    def content(self) -> dict[str, Any]:
        """The values that decide the content: neither where the files are nor how many threads."""
        return {k: v for k, v in asdict(self).items() if k not in ("source", "threads")}

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_plain`."""
        given = dict(value)
        preprocess = given.pop("preprocess")
        return cls(
            **given, preprocess=None if preprocess is None else PreprocessSettings(**preprocess)
        )


class Task(ABC):
    """Named in ``pqbench.experiment.tasks.TASKS``, or by the dotted path of a class of your own.

    Attributes:
        metric: Field of :class:`pqbench.core.record.Accuracy` that drops refer to.
        min_agreement: Least share of samples whose highest output stays in a conversion.
    """

    metric: ClassVar[str] = "top1"
    min_agreement: ClassVar[float] = 0.97

    @abstractmethod
    def prepare(self, request: SplitRequest, folder: Path) -> PreparedSplit:
        """Write a split's inputs and labels to ``folder``, as the model wants them.

        Args:
            request: Which samples, and how.
            folder: Where to write.

        Raises:
            DataError: The split is missing or empty, or a sample cannot be read.
            ConfigError: The model lacks the settings that this task needs.
        """

    @abstractmethod
    def score(
        self, outputs: Path, split: PreparedSplit, predictions: Path, baseline: Path | None
    ) -> Accuracy:
        """Score saved outputs, and compare them with the baseline's on the same split.

        Args:
            outputs: ``.npy`` of the session's first output, (count, ...).
            split: The prepared split that was fed.
            predictions: Parquet file to write, one row a sample.
            baseline: The baseline's outputs on the same split; None without one.
        """
