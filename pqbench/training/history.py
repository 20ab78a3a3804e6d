"""What a training keeps of its epochs: loss, time and the best weights, also over a restart."""

from __future__ import annotations

import time
from copy import deepcopy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from pqbench.training.average import Average
from pqbench.training.batches import Batches


class History(pl.Callback):
    """Notes loss and time of each epoch, and keeps the best weights where they are watched.

    Its state goes into checkpoints, with that of the random numbers and of the batches' order, so
    that a resumed training goes on as if it had never stopped.

    Args:
        network: What is trained.
        feed: The training batches.
        average: The network's moving average, where there is one: it is what is kept.
    """

    def __init__(self, network: nn.Module, feed: Batches, average: Average | None = None) -> None:
        self.network = network
        self.feed = feed
        self.average = average
        self.loss: list[float] = []
        self.validation_loss: list[float] = []
        self.seconds: list[float] = []
        self.kept_epoch = 0
        self.best: dict[str, Tensor] | None = None
        self.resumed_epochs = 0
        self._random: list[Tensor] = []
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Lightning's hook, after an epoch."""
        device = next(self.network.parameters()).device
        cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
        return {
            "loss": self.loss,
            "validation_loss": self.validation_loss,
            "seconds": self.seconds,
            "kept_epoch": self.kept_epoch,
            "best": self.best,
            "passes": self.feed.passes,
            "small_passes": self.feed.small_passes,
            "random": [torch.get_rng_state(), *cuda],
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning's hook, before the first epoch of a resumed training."""
        self.loss = state_dict["loss"]
        self.validation_loss = state_dict["validation_loss"]
        self.seconds = state_dict["seconds"]
        self.kept_epoch = state_dict["kept_epoch"]
        self.best = state_dict["best"]
        self.resumed_epochs = len(self.loss)
        self.feed.passes = state_dict["passes"]
        self.feed.small_passes = state_dict["small_passes"]
        self._random = state_dict["random"]
        if self.average is not None:
            self.average.load_state_dict(state_dict["average"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Lightning's hook."""
        if not self.resumed_epochs:
            return
        if trainer.global_rank:  # the checkpoint has rank 0's state only
            torch.manual_seed(self.feed.seed + trainer.global_rank + 7919 * self.resumed_epochs)
            return
        torch.set_rng_state(self._random[0].cpu())
        for state in self._random[1:]:
            torch.cuda.set_rng_state(state.cpu(), next(self.network.parameters()).device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Lightning's hook."""
        self._began = time.perf_counter()

    def kept(self) -> dict[str, Tensor] | None:
        """The weights to keep, where they are others than the network's last."""
        if self.best is not None or self.average is None:
            return self.best
        return self.average.weights

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Lightning's hook; the epoch's validation has run before it."""
        metrics = trainer.callback_metrics
        self.loss.append(float(metrics["loss"]))
        self.seconds.append(time.perf_counter() - self._began)
        if "validation_loss" not in metrics:
            self.kept_epoch = len(self.loss) - 1
            return
        self.validation_loss.append(float(metrics["validation_loss"]))
        if self.validation_loss[-1] <= min(self.validation_loss):
            self.kept_epoch = len(self.loss) - 1
            now = self.network.state_dict() if self.average is None else self.average.weights
            self.best = deepcopy(now)
