"""Train CellNet with Lightning, as anyone would; pqbench takes the checkpoint that this leaves."""

import lightning.pytorch as pl
import torch
from cell_net import CellNet
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchvision import transforms
from torchvision.datasets import ImageFolder


class Task(pl.LightningModule):
    """Cross entropy with weights for the rarer classes."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = CellNet()
        self.criterion = nn.CrossEntropyLoss(torch.tensor(weights))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """One step."""
        images, labels = batch
        loss: Tensor = self.criterion(self.net(images), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), 2e-3)


steps = [transforms.Resize(96), transforms.CenterCrop(96), transforms.ToTensor()]
steps.append(transforms.Normalize([0.5] * 3, [0.25] * 3))
data = ImageFolder("photos/train", transforms.Compose(steps))
counts = torch.bincount(torch.tensor(data.targets)).float()
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=4,
    logger=False,
    callbacks=[ModelCheckpoint("checkpoints", save_last=True)],
)
trainer.fit(Task((1 / counts / (1 / counts).mean()).tolist()), loader)
