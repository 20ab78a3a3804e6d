"""Heads cut to a data set's classes, or new."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_1

from pqbench.core.errors import ConfigError
from pqbench.models.heads import head_size, new_head, slice_head


def network(rows: int = 6, bias: bool = True) -> nn.Sequential:
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(5, rows, bias=bias)).eval()


@pytest.mark.parametrize("bias", [True, False])
def test_slice_head_keeps_the_scores_of_the_classes(bias: bool) -> None:
    net, x = network(bias=bias), torch.randn(4, 12)
    full = net(x)
    slice_head(net, "2", [5, 0, 3])
    torch.testing.assert_close(net(x), full[:, [5, 0, 3]])
    assert head_size(net, "2") == 3
    assert not net[2].training


def test_slice_head_works_on_a_convolution() -> None:
    net, x = squeezenet1_1().eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        full = net(x)
        slice_head(net, "classifier.1", [701, 0])
        torch.testing.assert_close(net(x), full[:, [701, 0]])


def test_new_head_is_seeded_and_leaves_the_global_generator_alone() -> None:
    nets = [network() for _ in range(3)]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for net, seed in zip(nets, (1, 1, 2), strict=True):
        new_head(net, "2", 4, seed)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(nets[0][2].weight, nets[1][2].weight)
    assert not torch.equal(nets[0][2].weight, nets[2][2].weight)
    assert nets[0](torch.randn(3, 12)).shape == (3, 4)
    assert not nets[0][2].bias.any()


@pytest.mark.parametrize(
    ("head", "message"), [("3", "does not exist"), ("1", "is a ReLU"), ("", "is a Sequential")]
)
def test_head_unknown_is_refused_and_others_named(head: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        new_head(network(), head, 2, 0)
    assert "0.1, 2" in str(caught.value)


@pytest.mark.parametrize("index", [6, -1])
def test_slice_head_index_outside_is_refused(index: int) -> None:
    with pytest.raises(ConfigError, match=f"class index {index} lies outside the 6 outputs"):
        slice_head(network(), "2", [0, index])
