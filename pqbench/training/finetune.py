"""Fine-tuning and distillation as steps of a recipe, for the accuracy that pruning costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import recalibrate_batch_norm, torch_threads
from pqbench.training.batches import changes_size
from pqbench.training.fit import fit
from pqbench.training.settings import TrainingSettings


@dataclass(frozen=True)
class Finetune(Step):
    """Train for a few epochs; with ``teacher_weight`` following the model before the first step.

    The settings are those of ``TrainingSettings``; ``recalibrate_bn`` comes on top.

    Attributes:
        teacher_weight: Share of the loss that follows the teacher; the step is called ``distill``
            in lineages if it is above 0.
        recalibrate_bn: After training at another size than the model's own, BatchNorm's statistics
            are measured anew on this many training images at the model's own size; 0 leaves them.
    """

    kind: ClassVar[Kind] = "train"
    takes: ClassVar[tuple[Representation, ...]] = ("torch",)
    limits: ClassVar[Sequence[str]] = ("tasks other than classification: training needs classes",)

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    train_size: int | None = None
    full_size_epochs: int = 1
    label_smoothing: float = 0.0
    augment: str = "flip"
    max_steps: int | None = None
    patience: int | None = None
    validation_share: float = 0.0
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
        return TrainingSettings(
            **{name: getattr(self, name) for name in own}, seed=seed, threads=threads
        )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Train and save.

        Raises:
            UnsupportedError: No classification, or a teacher is needed and there is none.
        """
        start = time.perf_counter()
        distils = self.teacher_weight > 0
        if distils and data.teacher is None:
            raise UnsupportedError(
                "distill needs the torch model from before the first step, and there is none",
                hint="use compress.finetune, or start from a torch model",
            )
        network = load_network(artifact)
        teacher = load_network(data.teacher) if distils and data.teacher is not None else None
        settings = self.settings(data.seed, data.threads)
        shown = sys.stderr.isatty()
        report = fit(network, data.train, settings, teacher, shown, data.resume)
        used = 0
        if self.recalibrate_bn and changes_size(self.train_size, data.train):
            names = [spec.name for spec in artifact.inputs]
            with torch_threads(data.threads):
                used = recalibrate_batch_norm(
                    network, data.train, names, data.train.spread(self.recalibrate_bn, data.seed)
                )
        entry = LineageEntry(
            action="distill" if distils else "finetune",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details={**asdict(report), "batch_norm_images": used},
        )
        return save_like(network, artifact, workdir, entry)
