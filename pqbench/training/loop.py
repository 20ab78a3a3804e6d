"""The Lightning half of training: imported by ``fit`` when a training begins, never before."""

from __future__ import annotations

import math
import sys
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor, nn
from torch.nn import functional

from pqbench.nets.layers import first_output
from pqbench.training.average import Average
from pqbench.training.batches import Batch
from pqbench.training.penalty import Penalty
from pqbench.training.ranks import Rank
from pqbench.training.settings import TrainingSettings

WARM_UP_SHARE = 0.1
MIN_ZERO_SHARE = 0.1


def schedule(step: int, total: int) -> float:
    """Share of the peak learning rate at ``step`` of ``total``: linear warm-up, then cosine to 1 %.

    Loshchilov and Hutter 2017, "SGDR", with the warm-up of Goyal et al. 2017.
    """
    warm = max(1, round(WARM_UP_SHARE * total))
    if step < warm:
        return (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, total - warm))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's softened probabilities from the teacher's, times T squared.

    Hinton et al. 2015, "Distilling the knowledge in a neural network",
    https://arxiv.org/abs/1503.02531.

    Args:
        student: Logits (n, classes, ...).
        teacher: Logits (n, classes, ...).
        temperature: T, above 0.
    """
    if student.ndim > 2:  # dense prediction: every position is a sample
        student = student.movedim(1, -1).flatten(0, -2)
        teacher = teacher.movedim(1, -1).flatten(0, -2)
    return temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


class Learner(pl.LightningModule):
    """Cross entropy, with a share of distillation if there is a teacher; AdamW."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        settings: TrainingSettings,
        total: int,
        penalty: Penalty | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        # In a tuple the teacher is no submodule: it is not trained, and train() leaves it alone.
        self.teacher = () if teacher is None else (teacher,)
        self.settings = settings
        self.total = total
        self.penalty = penalty
        self.rates = sum(schedule(step, total) for step in range(total)) if penalty else 0.0
        self.images = self.skipped = 0
        self.stopped = False
        # Before a checkpoint is loaded: a trained weight may have become zero by chance.
        self.masks = zero_masks(network) if settings.keep_zeros else []
        self.average = Average(network, settings.ema) if settings.ema else None

    def loss(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Mean loss of one batch."""
        logits = first_output(self.network(*inputs))
        share = self.settings.teacher_weight if self.teacher else 0.0
        loss = (1 - share) * functional.cross_entropy(
            logits, labels, label_smoothing=self.settings.label_smoothing
        )
        for teacher in self.teacher:
            with torch.no_grad():
                target = first_output(teacher(*inputs))
            loss = loss + share * distillation(logits, target, self.settings.temperature)
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Lightning's hook: one step."""
        count = len(batch[1])
        self.images += count * self.trainer.world_size
        loss = self.loss(*batch)
        self.log("loss", loss, on_epoch=True, on_step=False, batch_size=count, sync_dist=True)
        return loss

    def on_fit_start(self) -> None:
        """Lightning's hook; the network is on its device by now."""
        self.masks = [(p, mask.to(p.device)) for p, mask in self.masks]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Lightning's hook, after the optimizer's step."""
        if self.penalty is not None:
            self.penalty(schedule(self._step - 1, self.total) / self.rates)
        with torch.no_grad():
            for parameter, mask in self.masks:
                parameter.mul_(mask)
        if self.average is not None:
            self.average.update()
        # Lightning's own max_steps takes the end of an epoch for its middle when it resumes.
        if self._step >= self.total:
            self.trainer.should_stop = True

    @property
    def _step(self) -> int:
        """Steps made and skipped."""
        return self.trainer.global_step + self.skipped

    def skip(self, steps: int) -> None:
        """Leave steps out, at the end of an epoch; the learning rate is then what it is there."""
        self.skipped += steps
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(self._step, self.total)

    def on_validation_start(self) -> None:
        """Lightning's hook: every process validates rank 0's network, or the average of its own."""
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)
        if self.average is not None:
            self.average.swap()

    def on_validation_end(self) -> None:
        """Lightning's hook: the weights that are trained come back."""
        if self.average is not None:
            self.average.swap()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Lightning's hook: one validation batch."""
        loss = self.loss(*batch)
        self.log("validation_loss", loss, batch_size=len(batch[1]), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook."""
        checkpoint["images"] = self.images
        checkpoint["skipped"] = self.skipped
        checkpoint["stopped"] = self.trainer.should_stop

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's hook."""
        self.images = checkpoint["images"]
        self.skipped = checkpoint["skipped"]
        self.stopped = checkpoint["stopped"]

    def on_train_start(self) -> None:
        """Lightning's hook; what was out of patience when it was saved stays so."""
        self.trainer.should_stop = self.stopped

    def configure_optimizers(self) -> Any:
        """AdamW; scales and biases are not decayed."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in trained if p.ndim > 1],
                    "weight_decay": self.settings.weight_decay,
                },
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=self.settings.learning_rate,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: schedule(s + self.skipped, self.total)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": rate, "interval": "step"},
        }


def zero_masks(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Trained weights that are pruned in part, and where they are not zero.

    Of tensors of two or more dimensions, those with at least a tenth of zeros, but not all.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for parameter in network.parameters():
        if parameter.ndim < 2 or not parameter.requires_grad:
            continue
        mask = parameter.detach() != 0
        if MIN_ZERO_SHARE <= 1 - float(mask.float().mean()) < 1:
            found.append((parameter, mask))
    return found


class RankEnvironment(ClusterEnvironment):
    """Tells Lightning who takes part: the processes of ``pqbench.training.ranks``."""

    def __init__(self, rank: Rank) -> None:
        self.rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """They run already."""
        return True

    @property
    def main_address(self) -> str:
        """All are on this machine."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Where rank 0 listens."""
        return self.rank.port

    @staticmethod
    def detect() -> bool:
        """Never chosen by itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self.rank.count

    def set_world_size(self, size: int) -> None:
        """Lightning's hook: the number is fixed."""

    def global_rank(self) -> int:
        """This process's number."""
        return self.rank.number

    def set_global_rank(self, rank: int) -> None:
        """Lightning's hook: the number is fixed."""

    def local_rank(self) -> int:
        """This process's number on this machine, which is the only one."""
        return self.rank.number

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


class ProgressBar(pl.callbacks.TQDMProgressBar):
    """Lightning's bar on standard error: standard output belongs to results."""

    def _bar(self, description: str, leave: bool) -> Tqdm:
        return Tqdm(
            desc=description,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def init_train_tqdm(self) -> Tqdm:
        """Lightning's hook."""
        return self._bar("training", leave=True)

    def init_validation_tqdm(self) -> Tqdm:
        """Lightning's hook."""
        return self._bar("validating", leave=False)
