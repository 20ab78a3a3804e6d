"""Layers replaced by the product of two thinner ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compress_models import make_torch
from torch import nn

from pqbench.compress.low_rank import LowRank
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import load_network
from pqbench.nets.layers import feed_tensors, parameter_count
from pqbench.nets.low_rank import pair, split_weight


@pytest.fixture
def resnet(tmp_path: Path, split: PreparedSplit) -> Artifact:
    return make_torch("resnet18", tmp_path / "source", split)


@pytest.mark.parametrize("shape", [(12, 20), (12, 5, 3, 3)])
def test_split_weight_is_the_nearest_product(shape: tuple[int, ...]) -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    first, second = split_weight(weight, 4)
    product = second.flatten(1) @ first.flatten(1)
    left, values, right = np.linalg.svd(weight.flatten(1).numpy(), full_matrices=False)
    nearest = (left[:, :4] * values[:4]) @ right[:4]
    np.testing.assert_allclose(product.numpy(), nearest, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(20, 12), nn.Conv2d(6, 12, 3, stride=2, padding=1, dilation=2, bias=False)],
    ids=["linear", "convolution"],
)
def test_pair_of_full_rank_computes_the_same(layer: nn.Linear | nn.Conv2d) -> None:
    two = pair(layer, 12)
    first, second = split_weight(layer.weight, 12)
    with torch.no_grad():
        two[0].weight.copy_(first)
        two[1].weight.copy_(second)
        if layer.bias is not None:
            two[1].bias.copy_(layer.bias)
        x = torch.randn(3, 20) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 15, 15)
        torch.testing.assert_close(two(x), layer(x), atol=1e-5, rtol=1e-4)


def test_low_rank_shrinks_what_pays_and_reloads_exactly(
    resnet: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    step = LowRank(energy=0.6, recalibrate_bn=32, ignored_layers=["layer4.1"])
    result = step.apply(resnet, StepData(split, seed=0, threads=1), tmp_path / "out")
    details = Artifact.load(tmp_path / "out").lineage[-1].details
    network = load_network(result)
    before = load_network(resnet)
    assert details["parameters_before"] == parameter_count(before)
    assert details["parameters_after"] == parameter_count(network) < parameter_count(before)
    assert details["batch_norm_images"] == 32
    assert details["ranks"]
    assert not any(name.startswith("layer4.1") for name in details["ranks"])
    modules, old = dict(network.named_modules()), dict(before.named_modules())
    for name, rank in details["ranks"].items():
        weight = old[name].weight.detach()
        kept = torch.linalg.svdvals(weight.flatten(1).double()).square()
        assert kept[:rank].sum() / kept.sum() >= 0.6
        assert modules[f"{name}.0"].weight.shape[0] == rank
        assert rank % 8 == 0
    (x,) = feed_tensors(split, ["input"], slice(0, 4))
    with torch.no_grad():
        assert network(x).shape == before(x).shape


def test_low_rank_where_nothing_is_saved_is_refused(
    resnet: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1)
    with pytest.raises(UnsupportedError, match="would save less than 90% of every one of"):
        LowRank(energy=0.999, least_saving=0.9).apply(resnet, data, tmp_path / "x")
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        LowRank(ignored_layers=["nowhere"]).apply(resnet, data, tmp_path / "y")
