"""Train a network on a prepared split: from scratch, as fine-tuning, or following a teacher."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import ConfigError, DataError, PqbenchError
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import flush_subnormals, recalibrate_batch_norm, torch_threads
from pqbench.training.batches import changes_size, check_classes, check_size, split_off
from pqbench.training.ranks import find_rank, spawn_ranks
from pqbench.training.settings import FitReport, TrainingSettings
from pqbench.training.trainer import TrainingJob
from pqbench.training.trainer import train as run_trainer

if TYPE_CHECKING:
    from torch import nn

    from pqbench.training.penalty import Penalty

BATCH_NORM_IMAGES = 512


def fit(
    network: nn.Module,
    train: PreparedSplit,
    settings: TrainingSettings,
    teacher: nn.Module | None = None,
    progress: bool = False,
    resume: Path | None = None,
    penalty: Penalty | None = None,
) -> FitReport:
    """Train a network that scores classes, in place; deterministic on the CPU for a given seed.

    AdamW, gradients clipped to norm 1, in channels-last order. Runs on CUDA where torch has it.
    Nothing is written to disk but to ``resume``.

    Args:
        network: On the CPU; left there in eval mode, trained.
        train: Prepared train split with one label per sample, or per pixel.
        settings: How.
        teacher: A network with the same inputs and outputs to follow; needs
            ``settings.teacher_weight``. Left unchanged, in eval mode.
        progress: Show a progress bar on standard error.
        resume: Folder for a checkpoint after each epoch. If it has one of the same training, that
            goes on from there, to the same weights (on one device bit by bit). The caller removes
            the folder when it has kept the result.
        penalty: Called after each step of the optimizer; on one device alone.

    Returns:
        What was done.

    Raises:
        UnsupportedError: The network's output does not fit the classes and labels, or there is no
            device for the settings.
        ConfigError: ``train_size`` is larger than what the model is fed.
        DataError: Too few images.
        PqbenchError: The loss became infinite or no number.
    """
    check_classes(network, train)
    check_size(settings.train_size, train)
    trained, watched = split_off(train, settings.validation_share, settings.seed)
    if len(trained) < 2:
        raise DataError(
            f"{len(trained)} training image{'s'[: len(trained) != 1]} are too few",
            hint="add images to the train split, or raise dataset.train_limit",
        )
    start = time.perf_counter()
    job = TrainingJob(network, teacher, train, trained, watched, settings, resume, penalty)
    with spawn_ranks(find_rank(settings), run_trainer, (job,)) as rank:
        done = run_trainer(rank, job, progress)
    history = done.history
    network.eval()
    if not all(np.isfinite(history.loss)) or not _is_finite(network):
        raise PqbenchError(
            f"training diverged: losses {[round(v, 3) for v in history.loss]}",
            hint="lower learning_rate",
        )
    return FitReport(
        epochs=len(history.loss),
        steps=done.steps,
        images=done.images,
        seconds=sum(history.seconds[: history.resumed_epochs]) + time.perf_counter() - start,
        device="cuda" if rank.accelerator == "gpu" else "cpu",
        train_images=len(trained),
        loss=tuple(history.loss),
        epoch_seconds=tuple(history.seconds),
        validation_loss=tuple(history.validation_loss),
        kept_epoch=history.kept_epoch,
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        subnormals_flushed=flush_subnormals(network),
        devices=rank.count,
        resumed_epochs=history.resumed_epochs,
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
    resume: Path | None = None,
) -> Artifact:
    """Teach a network a data set's classes, before any compression.

    Args:
        artifact: A ``torch`` model whose head has one output per class.
        method: ``linear_probe``; ``finetune`` or ``scratch``, which train all weights alike, the
            words tell what the weights were before.
        head: Dotted name of the last Linear layer, for ``linear_probe``.
        settings: Fields of ``TrainingSettings``; ``linear_probe`` uses none of them.
        train: Prepared train split.
        workdir: An empty folder for the result.
        seed: Seeds folds, order, augmentation and dropout.
        threads: Threads that torch may use.
        resume: See :func:`fit`.

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
        unknown = sorted(set(settings) - {f.name for f in fields(TrainingSettings)})
        if unknown:
            raise ConfigError(f"fit.{unknown[0]} is no setting of training")
        chosen = TrainingSettings(**{**settings, "seed": seed, "threads": threads})
        report = fit(network, train, chosen, progress=sys.stderr.isatty(), resume=resume)
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
