"""Fine-tuning and distillation as steps of a recipe, for the accuracy that pruning costs.

A network in PyTorch is trained, or an ONNX file as the graph that it is (``training.trainee``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.layers import feed_tensors, recalibrate_batch_norm, torch_threads
from pqbench.training.batches import changes_size
from pqbench.training.budget import find_budget
from pqbench.training.fit import fit
from pqbench.training.settings import TrainingSettings
from pqbench.training.trainee import check_side, load_teacher, load_trainee

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pqbench.training.penalty import Penalty


@dataclass(frozen=True)
class Finetune(Step):
    """Train for a while; with ``teacher_weight`` following the model before the first step.

    The settings are those of ``TrainingSettings``; these come on top.

    Attributes:
        budget: ``once``, ``quick``, ``default`` or ``full``: how often the train split is passed,
            and whether a part of it is kept out to stop early (``pqbench.training.budget``).
        epochs: Passes, instead of the budget's.
        validation_share: Share kept out, instead of the budget's.
        patience: Passes without progress before it stops, instead of the budget's; where nothing is
            kept out there is none.
        ema: Share of the moving average that a step keeps, instead of the budget's; 0: no average.
        teacher_weight: Share of the loss that follows the teacher; the step is called ``distill``
            in lineages if it is above 0.
        recalibrate_bn: After training at another size than the model's own, BatchNorm's statistics
            are measured anew on this many training images at the model's own size; 0 leaves them.
    """

    kind: ClassVar[Kind] = "train"
    takes: ClassVar[tuple[Representation, ...]] = ("torch", "onnx")
    limits: ClassVar[Sequence[str]] = (
        "data without labels: training needs a class for each sample or each pixel",
        "ONNX files in half precision, or with an operator that it has no rule for in PyTorch",
    )

    budget: str = "quick"
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    train_size: int | None = None
    full_size_epochs: int = 1
    label_smoothing: float = 0.0
    augment: str = "flip"
    max_steps: int | None = None
    patience: int | None = None
    validation_share: float | None = None
    ema: float | None = None
    teacher_weight: float = 0.0
    temperature: float = 2.0
    keep_zeros: bool = True
    precision: str | None = None
    devices: int | str = 1
    recalibrate_bn: int = 256

    def __post_init__(self) -> None:
        if self.recalibrate_bn < 0:
            raise ConfigError(f"recalibrate_bn must be at least 0, got {self.recalibrate_bn}")
        self.settings(seed=0, threads=1)

    def settings(self, seed: int, threads: int) -> TrainingSettings:
        """The settings that ``fit`` takes.

        Raises:
            ConfigError: A setting is out of its range.
        """
        own = {f.name for f in fields(TrainingSettings)} & {f.name for f in fields(self)}
        given = {name: getattr(self, name) for name in own}
        budget = find_budget(self.budget)
        for name in ("epochs", "validation_share", "ema"):
            if given[name] is None:
                given[name] = getattr(budget, name)
        if self.patience is None and given["validation_share"]:
            given["patience"] = budget.patience
        return TrainingSettings(**given, seed=seed, threads=threads)

    @property
    def action(self) -> str:
        """The step's name in lineages."""
        return "distill" if self.teacher_weight > 0 else "finetune"

    def find_penalty(self, network: nn.Module, example: tuple[Tensor, ...]) -> Penalty | None:  # noqa: ARG002
        """What draws the weights somewhere else than the loss does; nothing here.

        Args:
            network: The network that is trained.
            example: Two samples for each of its inputs.
        """
        return None

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Train and save.

        Raises:
            UnsupportedError: No classes to learn, or a teacher is needed and there is none.
        """
        start = time.perf_counter()
        distils = self.teacher_weight > 0
        if distils and data.teacher is None:
            raise UnsupportedError(
                "distill needs the model from before the first step, and there is none",
                hint="use compress.finetune",
            )
        trainee = load_trainee(artifact, data.train, data.threads)
        network = trainee.network
        teacher = load_teacher(data.teacher) if distils and data.teacher is not None else None
        settings = self.settings(data.seed, data.threads)
        check_side(trainee, data.train, settings.train_size)
        shown = sys.stderr.isatty()
        names = [spec.name for spec in artifact.inputs]
        penalty = self.find_penalty(network, feed_tensors(data.train, names, slice(0, 2)))
        report = fit(network, data.train, settings, teacher, shown, data.resume, penalty)
        used = 0
        if self.recalibrate_bn and changes_size(self.train_size, data.train):
            with torch_threads(data.threads):
                used = recalibrate_batch_norm(
                    network, data.train, names, data.train.spread(self.recalibrate_bn, data.seed)
                )
        entry = LineageEntry(
            action=self.action,
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={**asdict(report), "batch_norm_images": used, **trainee.details},
        )
        return trainee.save(workdir, entry)
