"""What a compression or training step is: an artifact in, an artifact out, files on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

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
        teacher: The model as it was before the first step (``torch``), for distillation; or None.
        resume: A folder that outlives an interrupted run of this very step and is removed once the
            step is done: what is put there is found when the step is run again. May not exist yet.
    """

    train: PreparedSplit
    seed: int
    threads: int
    teacher: Artifact | None = None
    resume: Path | None = None


@runtime_checkable
class Step(Protocol):
    """One tool, one action; named by ``_target_`` in ``conf/compress/*.yaml``.

    The constructor takes the settings and must be cheap: heavy libraries are imported in ``apply``.

    Attributes:
        kind: What the step does, for the order check.
        takes: Representations it works on. The result has the representation it was given, unless
            the class has ``gives``.

    A class may also declare, and the order check, its messages and the table in the documentation
    then use it:

    - ``gives``: the result's representation, where it is another one than the step was given;
    - ``final``: why nothing may convert or treat the result further, if so;
    - ``why_not``: by representation, why the step does not work on it;
    - ``limits``: sentences on the models and data that the step refuses once it sees them.
    """

    kind: ClassVar[Kind]
    takes: ClassVar[tuple[Representation, ...]]

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Do the work and return the new artifact, with files and ``artifact.json`` in ``workdir``.

        Args:
            artifact: The model so far, in one of ``takes``.
            data: Train split, seed, threads.
            workdir: An empty folder for the result.

        Raises:
            UnsupportedError: The tool cannot treat this model; the message says why.
        """
        ...


def gives(step: Step | type[Step], taken: Representation) -> Representation:
    """Representation of the step's result when it works on ``taken``."""
    given: Representation = getattr(step, "gives", taken)
    return given


def final(step: Step | type[Step]) -> str:
    """Why the step's result stays as it is; empty if it may be converted further."""
    reason: str = getattr(step, "final", "")
    return reason


def why_not(step: Step | type[Step]) -> Mapping[Representation, str]:
    """By representation, why the step does not work on it."""
    reasons: Mapping[Representation, str] = getattr(step, "why_not", {})
    return reasons


def limits(step: Step | type[Step]) -> Sequence[str]:
    """What the step refuses once it sees the model or the data."""
    sentences: Sequence[str] = getattr(step, "limits", ())
    return sentences
