"""One process's part in a training: Lightning's trainer, from the first epoch or the last saved."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from pqbench.core.split import PreparedSplit
from pqbench.machine.heap import keep_freed_memory
from pqbench.nets.layers import torch_threads
from pqbench.nets.strided import pixels_first
from pqbench.training.batches import Batches, changes_size
from pqbench.training.ranks import Rank
from pqbench.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch import nn

    from pqbench.training.history import History
    from pqbench.training.penalty import Penalty

log = logging.getLogger(__name__)

CLIP_NORM = 1.0


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, and how; the same in every process.

    Attributes:
        network: On the CPU; trained in place.
        teacher: To follow, or None.
        split: The prepared train split.
        trained: Indices to train on.
        watched: Indices to watch; may be empty.
        settings: How.
        resume: Folder for the last finished epoch's checkpoint; None keeps none.
        penalty: Called after each step; None: there is none.
    """

    network: nn.Module
    teacher: nn.Module | None
    split: PreparedSplit
    trained: npt.NDArray[np.int64]
    watched: npt.NDArray[np.int64]
    settings: TrainingSettings
    resume: Path | None = None
    penalty: Penalty | None = None

    def feeds(self, rank: Rank) -> tuple[Batches, Batches]:
        """The training batches (this rank's share), and the whole of those that are watched.

        Where training ends at the model's own size, that is the size that is watched: the best
        epoch is the best at what is deployed.
        """
        settings = self.settings
        feed = Batches(
            split=self.split,
            indices=self.trained,
            batch_size=settings.batch_size,
            train_size=settings.train_size,
            augment=settings.augment,
            seed=settings.seed,
            rank=rank.number,
            world=rank.count,
        )
        feed.small_passes = self._small_passes(max(1, len(feed)))
        watched = Batches(
            split=self.split,
            indices=self.watched,
            batch_size=settings.batch_size,
            train_size=settings.train_size if feed.small_passes is None else None,
            augment="none",
            seed=settings.seed,
            shuffle=False,
        )
        return feed, watched

    def _small_passes(self, steps: int) -> int | None:
        """Passes at ``train_size`` before those at the model's own size; None: there are no others.

        Args:
            steps: Of each pass.
        """
        settings, last = self.settings, self.settings.full_size_epochs
        if not last or not changes_size(settings.train_size, self.split):
            return None
        passes: float = settings.epochs
        if settings.max_steps is not None:
            passes = min(passes, settings.max_steps / steps)
        return max(1, int(passes) - last) if passes > last else None


@dataclass(frozen=True)
class Trained:
    """What a training leaves beside the network.

    Attributes:
        history: Losses and times.
        steps: Optimizer steps.
        images: Images seen by all processes.
    """

    history: History
    steps: int
    images: int


def train(rank: Rank, job: TrainingJob, progress: bool = False) -> Trained:
    """Take part in a training; the network is left on the CPU with the weights to keep.

    On the CPU this process keeps the memory that it frees from then on: each step would else pay
    for its pages anew (:mod:`pqbench.machine.heap`).
    """
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from pqbench.training.history import History
    from pqbench.training.loop import Learner, ProgressBar
    from pqbench.training.patience import Patience

    if rank.accelerator == "cpu":
        keep_freed_memory()
    settings, network, teacher = job.settings, job.network, job.teacher
    feed, watched = job.feeds(rank)
    total = len(feed) * settings.epochs
    if settings.max_steps is not None:
        total = min(total, settings.max_steps)
    learner = Learner(network, teacher, settings, total, job.penalty)
    history = History(network, feed, learner.average)
    callbacks: list[Callback] = [history]
    if settings.patience:
        callbacks.insert(0, Patience(settings.patience, feed))
    if progress:
        callbacks.append(ProgressBar())
    if job.resume is not None:
        callbacks.append(
            ModelCheckpoint(
                job.resume,
                "{epoch:06d}",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
        )
    last = find_checkpoint(job.resume)
    with _quiet(), _reproducible(settings, rank), _group(rank) as strategy:
        network.to(memory_format=torch.channels_last)
        network.train()
        if teacher is not None:
            teacher.eval()
            teacher.to(rank.device)
        trainer = Trainer(
            accelerator=rank.accelerator,
            devices=rank.count,
            precision=cast('Literal["32-true"]', settings.precision or "32-true"),
            max_epochs=settings.epochs,
            gradient_clip_val=CLIP_NORM,
            callbacks=callbacks,
            enable_progress_bar=progress,
            enable_checkpointing=job.resume is not None,
            enable_model_summary=False,
            logger=False,
            num_sanity_val_steps=0,
            **strategy,
        )
        with pixels_first():
            trainer.fit(
                learner,
                feed,
                watched if len(job.watched) else None,
                ckpt_path=last,
                weights_only=True,
            )
        kept = history.kept()
        if kept is not None:
            network.load_state_dict(kept)
        network.to("cpu").to(memory_format=torch.contiguous_format)
        if teacher is not None:
            teacher.to("cpu")
    return Trained(history, trainer.global_step, learner.images)


def find_checkpoint(folder: Path | None) -> Path | None:
    """The newest checkpoint of a folder that can be read; a damaged one is removed."""
    import torch

    for path in sorted(folder.glob("*.ckpt"), reverse=True) if folder is not None else ():
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            log.warning("training starts without the damaged checkpoint %s: %s", path, error)
            path.unlink(missing_ok=True)
        else:
            return path
    return None


@contextmanager
def _group(rank: Rank) -> Iterator[dict[str, Any]]:
    """Trainer arguments that say with whom it trains; the processes' group ends with the block."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    if rank.count == 1:
        # One process, also inside a Slurm job, which Lightning would otherwise join.
        yield {"plugins": [LightningEnvironment()]}
        return
    import torch
    from lightning.pytorch.strategies import DDPStrategy

    from pqbench.training.loop import RankEnvironment

    try:
        # Layers that the first output does not need (auxiliary heads) get no gradient.
        yield {
            "strategy": DDPStrategy(find_unused_parameters=True),
            "plugins": [RankEnvironment(rank)],
        }
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


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
def _reproducible(settings: TrainingSettings, rank: Rank) -> Iterator[None]:
    """Seeded random numbers, a fixed number of threads, subnormals flushed; restored afterwards."""
    import torch

    devices = [rank.number] if rank.accelerator == "gpu" else []
    threads = settings.threads
    if rank.accelerator == "cpu":
        threads = max(1, threads // rank.count)
    with torch_threads(threads), torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed + rank.number)
        torch.set_flush_denormal(True)
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
