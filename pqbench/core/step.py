"""What a compression or training step is: an artifact in, an artifact out, files on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from pqbench.core.artifact import Artifact, Representation
from pqbench.core.split import PreparedSplit

Kind = Literal["analyse", "prune", "train", "quantize"]


@dataclass(frozen=True)
class StepData:
    """What a step may use beside the model.

    Attributes:
        train: The train split: calibration images are drawn from it, never from the scored split.
        seed: Seeds every draw and every training run.
        threads: Threads the step may use.
        teacher: The model as it was before the first step (``torch`` or ``onnx``), for
            distillation; or None.
        resume: A folder that outlives an interrupted run of this very step and is removed once the
            step is done: what is put there is found when the step is run again. May not exist yet.
    """

    train: PreparedSplit
    seed: int
    threads: int
    teacher: Artifact | None = None
    resume: Path | None = None


class Step(ABC):
    """One tool, one action; named by ``_target_`` in ``conf/compress/*.yaml``.

    The constructor takes the settings and must be cheap: heavy libraries are imported in ``apply``.
    What a class declares makes the order check, its messages and the table in the documentation.

    Attributes:
        kind: What the step does, for the order check: ``analyse``, ``prune``, ``train`` or
            ``quantize``. Must be given.
        takes: Representations it works on. Must be given.
        gives: Representation of the result; None: that which the step was given.
        final: Why nothing may convert or treat the result further; empty if it may be.
        why_not: By representation, why the step's result is not to be had in it.
        limits: Sentences on the models and data that the step refuses once it sees them.
    """

    kind: ClassVar[Kind]
    takes: ClassVar[tuple[Representation, ...]]
    gives: ClassVar[Representation | None] = None
    final: ClassVar[str] = ""
    why_not: ClassVar[Mapping[Representation, str]] = MappingProxyType({})
    limits: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Do the work and return the new artifact, with files and ``artifact.json`` in ``workdir``.

        Args:
            artifact: The model so far, in one of ``takes``.
            data: Train split, seed, threads.
            workdir: An empty folder for the result.

        Raises:
            UnsupportedError: The tool cannot treat this model; the message says why.
        """

    @classmethod
    def result_of(cls, taken: Representation) -> Representation:
        """Representation of the step's result when it works on ``taken``."""
        return taken if cls.gives is None else cls.gives
