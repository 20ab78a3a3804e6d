"""ResNets for small images: the published sizes, and what is no such network."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pqbench.core.errors import ConfigError
from pqbench.models.resnet_cifar import CifarResNet


@pytest.mark.parametrize(("layers", "millions"), [(20, 0.27), (56, 0.85)])
def test_resnet_has_the_published_size(layers: int, millions: float) -> None:
    """He et al. 2015, table 6, whose shortcuts without weights are 2,752 parameters fewer."""
    network = CifarResNet(10, layers).eval()
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    if layers == 20:
        assert counter.get_total_flops() / 2e6 == pytest.approx(41, abs=1)


def test_resnet_of_another_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match="6n"):
        CifarResNet(10, layers=18)
