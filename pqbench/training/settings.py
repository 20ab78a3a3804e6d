"""What a training run is asked to do, and what it reports; plain types without a framework."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from pqbench.core.errors import ConfigError
from pqbench.core.preprocess import Augment

PRECISIONS = (None, "bf16-mixed", "16-mixed")


class FitMethod(StrEnum):
    """How a model learns a data set's classes."""

    auto = "auto"  # nothing for weights that fit, else linear_probe or scratch, as they are
    none = "none"
    linear_probe = "linear_probe"  # pretrained weights under a new head
    finetune = "finetune"
    scratch = "scratch"  # random weights


@dataclass
class TrainingSettings:
    """Settings of a training run; those of the steps ``finetune`` and ``distill`` are the same.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Peak of the schedule: linear warm-up over a tenth of the steps, then cosine.
        weight_decay: AdamW's, on parameters of two or more dimensions.
        train_size: Side of the training images in pixels; None takes the model's own size. Smaller
            is faster in proportion to the area; larger is refused, it would enlarge images.
        full_size_epochs: Where ``train_size`` is smaller: so many epochs at the end see the model's
            own size all the same (Touvron et al. 2019, "Fixing the train-test resolution
            discrepancy"), if there are more epochs than that. ``patience`` leaves out smaller ones
            before them, never these; that size is what is watched.
        label_smoothing: Share of each target spread over all classes, in [0, 1).
        augment: ``none``; ``flip`` (left-right); ``dihedral`` (the square's eight symmetries).
        max_steps: Stop after so many steps; None for no limit.
        patience: Stop after so many epochs in which the validation loss has not fallen, and keep
            the best weights; None trains to the end.
        validation_share: Share of the train split kept out of the training for ``patience``.
        ema: What is validated and kept is the moving average of the weights over the steps, each
            of which keeps this share of it (Polyak and Juditsky 1992; a warm-up makes short
            trainings forget their start); 0: the weights themselves.
        teacher_weight: Share of the loss that follows the teacher, in [0, 1].
        temperature: Divides both sides' logits in the teacher's part of the loss.
        keep_zeros: Weights that are zero stay zero, in tensors of two or more dimensions with at
            least a tenth of zeros: what ``prune_unstructured`` removed does not grow again.
        precision: Of the products while training: None for float32; ``bf16-mixed``; ``16-mixed``
            (float16 with a scaled loss, CUDA only). Weights and what is saved stay float32.
        devices: GPUs: a number, or ``auto`` for all. A batch is shared among them, so that a step
            sees as many images as on one; BatchNorm sees each device's share.
        seed: Seeds order, augmentation and dropout.
        threads: Threads that torch may use.
    """

    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    train_size: int | None = None
    full_size_epochs: int = 0
    label_smoothing: float = 0.0
    augment: Augment = Augment.flip
    max_steps: int | None = None
    patience: int | None = None
    validation_share: float = 0.0
    ema: float = 0.0
    teacher_weight: float = 0.0
    temperature: float = 2.0
    keep_zeros: bool = True
    precision: str | None = None
    devices: int | str = 1
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "train_size", "max_steps", "patience"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"training: {key} must be at least 1, got {value}")
        for key in ("learning_rate", "temperature"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"training: {key} must be above 0, got {getattr(self, key)}")
        for key in ("label_smoothing", "validation_share", "ema"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"training: {key} must lie in [0, 1), got {getattr(self, key)}")
        if not 0 <= self.teacher_weight <= 1:
            raise ConfigError(
                f"training: teacher_weight must lie in [0, 1], got {self.teacher_weight}"
            )
        if self.weight_decay < 0:
            raise ConfigError(f"training: weight_decay must be at least 0, got {self.weight_decay}")
        if self.augment not in set(Augment):
            raise ConfigError(
                f"training: augment '{self.augment}' is unknown",
                hint=f"choose one of {', '.join(Augment)}",
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"training: precision '{self.precision}' is unknown",
                hint="choose null, bf16-mixed or 16-mixed",
            )
        if self.devices != "auto" and not (isinstance(self.devices, int) and self.devices >= 1):
            raise ConfigError(
                f"training: devices must be auto or at least 1, got {self.devices}",
            )
        if self.patience is not None and self.validation_share == 0:
            raise ConfigError(
                "training: patience needs images to watch", hint="set validation_share=0.1, say"
            )


@dataclass
class FitSettings(TrainingSettings):
    """How a model learns the data set's classes before any compression, if it must.

    Attributes:
        method: What is done; ``auto`` decides by the weights that were found.
    """

    method: FitMethod = FitMethod.auto
    epochs: int = 5
    train_size: int | None = 96

    def training(self) -> TrainingSettings:
        """What a training run is asked, without the method."""
        return TrainingSettings(**{f.name: getattr(self, f.name) for f in fields(TrainingSettings)})


@dataclass(frozen=True)
class FitReport:
    """What a training run did.

    Attributes:
        epochs: Epochs begun; those before a resumption counted.
        steps: Optimizer steps.
        images: Images seen, repetitions counted.
        seconds: Wall time; of a resumed training, with its epochs before.
        device: Where it ran: ``cpu`` or ``cuda``.
        train_images: Images in the training part.
        loss: Mean training loss of each epoch.
        epoch_seconds: Wall time of each epoch, its validation included.
        validation_loss: Of each epoch; empty without a validation part.
        kept_epoch: Epoch (from 0) whose weights were kept.
        parameters: Parameters trained.
        subnormals_flushed: Weights too small to be normal numbers that were set to zero.
        devices: Devices that shared each batch.
        resumed_epochs: Epochs that an earlier, interrupted run of the same training had finished.
    """

    epochs: int
    steps: int
    images: int
    seconds: float
    device: str
    train_images: int
    loss: tuple[float, ...]
    epoch_seconds: tuple[float, ...]
    validation_loss: tuple[float, ...]
    kept_epoch: int
    parameters: int
    subnormals_flushed: int
    devices: int = 1
    resumed_epochs: int = 0
