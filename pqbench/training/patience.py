"""The end of a training that makes no more progress: imported when one begins."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from pqbench.training.batches import Batches
from pqbench.training.loop import Learner


class Patience(EarlyStopping):
    """Lightning's early stopping, but passes at the model's own size are never left out.

    Where passes at a smaller size are still to come, those are what is left out.

    Args:
        patience: Epochs without progress before it ends.
        feed: The training batches.
    """

    def __init__(self, patience: int, feed: Batches) -> None:
        super().__init__("validation_loss", patience=patience)
        self.feed = feed

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook; the epoch's validation has run before it."""
        ended = trainer.should_stop  # all steps are done
        super().on_train_epoch_end(trainer, pl_module)
        feed, small = self.feed, self.feed.small_passes
        if ended or small is None or self.wait_count < self.patience:
            return
        assert isinstance(pl_module, Learner)
        trainer.should_stop = False
        self.wait_count = 0
        if feed.passes < small:
            pl_module.skip((small - feed.passes) * len(feed))
            feed.small_passes = feed.passes
