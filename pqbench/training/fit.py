"""Train a network on a prepared split: from scratch, as fine-tuning, or following a teacher."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pqbench.artifact import Artifact, LineageEntry
from pqbench.checkpoint import load_network, save_like
from pqbench.errors import ConfigError, DataError, PqbenchError
from pqbench.inputs import PreparedSplit
from pqbench.networks import flush_subnormals, recalibrate_batch_norm, torch_threads
from pqbench.training.batches import Batches, changes_size, check_classes, split_off
from pqbench.training.settings import FitReport, FitSettings

if TYPE_CHECKING:
    from torch import nn

CLIP_NORM = 1.0
BATCH_NORM_IMAGES = 512


def fit(
    network: nn.Module,
    train: PreparedSplit,
    settings: FitSettings,
    teacher: nn.Module | None = None,
    progress: bool = False,
) -> FitReport:
    """Train a classification network in place; deterministic on the CPU for a given seed.

    AdamW, gradients clipped to norm 1, in channels-last order. Runs on CUDA where torch has it.
    Nothing is written to disk.

    Args:
        network: On the CPU; left there in eval mode, trained.
        train: Prepared train split with one label per sample.
        settings: How.
        teacher: A network with the same inputs and outputs to follow; needs
            ``settings.teacher_weight``. Left unchanged, in eval mode.
        progress: Show a progress bar on standard error.

    Returns:
        What was done.

    Raises:
        UnsupportedError: The labels are not one class per sample, or the network's output does
            not fit the classes.
        DataError: Too few images.
        PqbenchError: The loss became infinite or no number.
    """
    import torch
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import EarlyStopping

    from pqbench.training.loop import Diary, Learner, ProgressBar

    check_classes(network, train)
    trained, watched = split_off(train, settings.validation_share, settings.seed)
    if len(trained) < 2:
        raise DataError(
            f"{len(trained)} training images are too few", hint="raise dataset.train_limit"
        )

    def batches(indices: np.ndarray[tuple[int], np.dtype[np.int64]], shuffle: bool) -> Batches:
        return Batches(
            split=train,
            indices=indices,
            batch_size=settings.batch_size,
            train_size=settings.train_size,
            augment=settings.augment if shuffle else "none",
            seed=settings.seed,
            shuffle=shuffle,
        )

    feed = batches(trained, shuffle=True)
    total = len(feed) * settings.epochs
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    cuda = torch.cuda.is_available()
    learner = Learner(network, teacher, settings, total)
    diary = Diary(network)
    watchers = (
        [EarlyStopping("validation_loss", patience=settings.patience)] if settings.patience else []
    )
    start = time.perf_counter()
    with _quiet(), _reproducible(settings):
        network.to(memory_format=torch.channels_last)
        network.train()
        if teacher is not None:
            teacher.eval()
            teacher.to("cuda" if cuda else "cpu")
        trainer = Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            max_epochs=settings.epochs,
            max_steps=total,
            gradient_clip_val=CLIP_NORM,
            callbacks=[*watchers, diary, *([ProgressBar()] if progress else [])],
            enable_progress_bar=progress,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            num_sanity_val_steps=0,
            # One process, also inside a Slurm job, which Lightning would otherwise join.
            plugins=[LightningEnvironment()],
        )
        trainer.fit(learner, feed, batches(watched, shuffle=False) if len(watched) else None)
        if diary.best is not None:
            network.load_state_dict(diary.best)
        network.to("cpu").to(memory_format=torch.contiguous_format)
        if teacher is not None:
            teacher.to("cpu")
    network.eval()
    if not all(np.isfinite(diary.loss)) or not _is_finite(network):
        raise PqbenchError(
            f"training diverged: losses {[round(v, 3) for v in diary.loss]}",
            hint="lower learning_rate",
        )
    return FitReport(
        epochs=len(diary.loss),
        steps=trainer.global_step,
        images=learner.images,
        seconds=time.perf_counter() - start,
        device="cuda" if cuda else "cpu",
        train_images=len(trained),
        loss=tuple(diary.loss),
        epoch_seconds=tuple(diary.seconds),
        validation_loss=tuple(diary.validation_loss),
        kept_epoch=diary.kept_epoch,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        subnormals_flushed=flush_subnormals(network),
    )


def fit_artifact(
    artifact: Artifact,
    method: str,
    head: str,
    settings: Mapping[str, Any],
    train: PreparedSplit,
    workdir: Path,
    seed: int,
    threads: int,
) -> Artifact:
    """Teach a network a data set's classes, before any compression.

    Args:
        artifact: A ``torch`` model whose head has one output per class.
        method: ``linear_probe``; ``finetune`` or ``scratch``, which train all weights alike, the
            words tell what the weights were before.
        head: Dotted name of the last Linear layer, for ``linear_probe``.
        settings: Fields of ``FitSettings``; ``linear_probe`` uses none of them.
        train: Prepared train split.
        workdir: An empty folder for the result.
        seed: Seeds folds, order, augmentation and dropout.
        threads: Threads that torch may use.

    Returns:
        The trained model, its last lineage entry being ``fit``.

    Raises:
        ConfigError: ``method`` or a setting is unknown or out of its range.
        UnsupportedError: The network or the data set does not suit the method.
    """
    from pqbench.training.linear_probe import ProbeSettings, linear_probe

    start = time.perf_counter()
    network = load_network(artifact)
    config: dict[str, Any]
    details: dict[str, Any]
    if method == "linear_probe":
        probe = ProbeSettings(seed=seed, threads=threads)
        details = asdict(linear_probe(network, head, train, probe))
        config = asdict(probe)
    elif method in ("finetune", "scratch"):
        unknown = sorted(set(settings) - {f.name for f in fields(FitSettings)})
        if unknown:
            raise ConfigError(f"fit.{unknown[0]} is no setting of training")
        chosen = FitSettings(**{**settings, "seed": seed, "threads": threads})
        report = fit(network, train, chosen, progress=sys.stderr.isatty())
        used = 0
        if changes_size(chosen.train_size, train):
            names = [spec.name for spec in artifact.inputs]
            images = train.spread(BATCH_NORM_IMAGES, seed)
            with torch_threads(threads):
                used = recalibrate_batch_norm(network, train, names, images)
        details = {**asdict(report), "batch_norm_images": used}
        config = asdict(chosen)
    else:
        raise ConfigError(
            f"fit.method '{method}' is unknown", hint="use linear_probe, finetune or scratch"
        )
    entry = LineageEntry(
        action="fit",
        seconds=time.perf_counter() - start,
        config={"method": method, **config},
        details=details,
    )
    return save_like(network, artifact, workdir, entry)


def _is_finite(network: nn.Module) -> bool:
    import torch

    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices on devices, loaders and tips out of the log."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _reproducible(settings: FitSettings) -> Iterator[None]:
    """Seeded random numbers, a fixed number of threads, subnormals flushed; restored afterwards."""
    import torch

    devices = [0] if torch.cuda.is_available() else []
    with torch_threads(settings.threads), torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
