"""Moving average of the weights over a training's steps: imported when one begins."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn


class Average:
    """Moving average of a network's weights and BatchNorm statistics over its steps.

    Args:
        network: Whose; on the device on which it is trained.
        share: What a step keeps of the average, in (0, 1), once there were many.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.network = network
        self.share = share
        self.steps = 0
        self.weights = deepcopy(network.state_dict())

    @torch.no_grad()
    def update(self) -> None:
        """Follow the network by one step; of the first steps more is forgotten."""
        self.steps += 1
        keep = min(self.share, self.steps / (self.steps + 10))
        for name, value in self.network.state_dict().items():
            mine = self.weights[name] = self.weights[name].to(value.device)
            if value.dtype.is_floating_point:
                mine.lerp_(value, 1 - keep)
            else:
                mine.copy_(value)

    def swap(self) -> None:
        """Exchange the average and the network's own weights."""
        own = deepcopy(self.network.state_dict())
        self.network.load_state_dict(self.weights)
        self.weights = own

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"weights": self.weights, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.weights, self.steps = state["weights"], state["steps"]
