"""What a data set's configuration says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pqbench.core.errors import ConfigError
from pqbench.core.instantiate import MISSING
from pqbench.core.preprocess import Augment, OnError, ResizeMode


@dataclass
class DatasetSettings:
    """Labelled images or texts in named splits.

    Attributes:
        name: Name in tables and records.
        task: The task that it has labels for, as in ``ModelSettings``.
        source: ``_target_`` of a class with an ``index()`` method, and its arguments.
        root: Folder with the data; null takes the data set's usual place.
        classes: The class names in the order of the model's outputs, as a list or as the path of a
            text file with one a line; null takes the data set's own order.
        split: Split that is scored: ``val``, or ``clean`` where the data set has it.
        limit: Score at most this many images (a stratified, seeded subset); null takes all.
        train_limit: Use at most this many training images; null takes all.
        on_error: What to do with an unreadable image: ``fail`` or ``skip`` (counted, noted).
        resize_mode: ``crop``: resize the shorter side, crop the centre; ``squash``: resize to the
            crop size, whole picture kept.
        augment: Symmetries of an image that keep its label, used in training: ``none``, ``flip``
            (left-right) or ``dihedral`` (all eight flips and quarter turns).
        scratch: True if a model without other weights may be trained from scratch on it.
        scored: False for made-up inputs: nothing is fitted, accuracy is null.

    Raises:
        ConfigError: A limit is below 1.
    """

    name: str = MISSING
    task: str = "classification"
    source: dict[str, Any] = MISSING
    root: str | None = None
    classes: Any = None
    split: str = "val"
    limit: int | None = None
    train_limit: int | None = None
    on_error: OnError = OnError.fail
    resize_mode: ResizeMode = ResizeMode.crop
    augment: Augment = Augment.flip
    scratch: bool = False
    scored: bool = True

    def __post_init__(self) -> None:
        for key in ("limit", "train_limit"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ConfigError(
                    f"dataset.{key}={value} is not possible",
                    hint=f"dataset.{key} must be null or at least 1",
                )
