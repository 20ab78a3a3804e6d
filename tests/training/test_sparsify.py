"""Sparsity learning: whole channels go towards zero while the network learns."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import load_network, save_network
from pqbench.training.penalty import PENALTIES, STRENGTHS, ChannelPenalty
from pqbench.training.sparsify import Sparsify

CNN = {"_target_": "pqbench.models.cnn.Cnn", "num_classes": 2, "width": 8}


def cnn() -> nn.Module:
    from pqbench.models.cnn import Cnn

    torch.manual_seed(0)
    return Cnn(2, 8).eval()


def norms(network: nn.Module) -> torch.Tensor:
    """L2 norm of each output channel of the first convolution, whose inputs no penalty touches."""
    weight = dict(network.named_modules())["features.0.0"].weight
    return weight.detach().flatten(1).norm(dim=1)


def test_group_penalty_shrinks_the_weakest_channels_most() -> None:
    network = cnn()
    before = norms(network)
    penalty = ChannelPenalty(network, (torch.zeros(2, 3, 32, 32),), "group_norm", strength=2.0)
    for _ in range(50):
        penalty(1 / 50)
    left = norms(network) / before
    assert bool((left < 1).all())
    weakest, strongest = int(left.argmin()), int(left.argmax())
    assert float(left[weakest]) == pytest.approx(torch.exp(torch.tensor(-2.0)).item(), rel=0.05)
    assert float(left[strongest]) > 0.8
    head = dict(network.named_modules())["head"]
    assert head.bias is not None
    assert head.bias.grad is None


def test_scale_penalty_takes_the_same_from_every_scale() -> None:
    network = cnn()
    scale = dict(network.named_modules())["features.1.1"].weight
    with torch.no_grad():
        scale.copy_(torch.linspace(0.6, 1.4, len(scale)))
    before = scale.detach().clone()
    penalty = ChannelPenalty(network, (torch.zeros(2, 3, 32, 32),), "bn_scale", strength=0.5)
    for _ in range(10):
        penalty(1 / 10)
    torch.testing.assert_close(before - scale.detach(), torch.full_like(before, 0.5))


def test_scale_penalty_draws_to_zero_and_no_further() -> None:
    """Signed steps that are as long for every scale would throw the weak ones back and forth."""
    network = cnn()
    scale = dict(network.named_modules())["features.1.1"].weight
    with torch.no_grad():
        scale.copy_(torch.linspace(-0.3, 1.4, len(scale)))
    before = scale.detach().clone()
    penalty = ChannelPenalty(network, (torch.zeros(2, 3, 32, 32),), "bn_scale", strength=0.5)
    drawn = 0.5 * penalty.mean_scale
    for _ in range(10):
        penalty(1 / 10)
    expected = before.sign() * (before.abs() - drawn).clamp_min(0)
    torch.testing.assert_close(scale.detach(), expected)
    assert int((scale == 0).sum()) >= 2
    penalty(0.0)  # a step whose learning rate is zero draws nothing, from a scale of zero neither
    torch.testing.assert_close(scale.detach(), expected)


@pytest.mark.parametrize("kind", PENALTIES)
def test_sparsify_draws_as_hard_as_its_penalty_needs_unless_told(kind: str) -> None:
    network, example = cnn(), (torch.zeros(2, 3, 32, 32),)
    found = Sparsify(penalty=kind).find_penalty(network, example)
    assert isinstance(found, ChannelPenalty)
    assert found.strength == STRENGTHS[kind]
    told = Sparsify(penalty=kind, strength=0.25).find_penalty(network, example)
    assert isinstance(told, ChannelPenalty)
    assert told.strength == 0.25
    if kind == "bn_scale":
        scales = [m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        found(1.0)  # the whole draw at once: of every scale something is left
        assert all(bool((scale > 0).all()) for scale in scales)


def test_scale_penalty_without_batch_norm_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    with pytest.raises(UnsupportedError, match="no BatchNorm scales"):
        ChannelPenalty(network, (torch.zeros(2, 3, 32, 32),), "bn_scale", 1.0)
    with pytest.raises(ConfigError, match="penalty 'hope' is unknown"):
        ChannelPenalty(network, (torch.zeros(2, 3, 32, 32),), "hope", 1.0)


@pytest.mark.parametrize("kind", PENALTIES)
def test_sparsify_step_trains_under_the_penalty(
    kind: str, split: PreparedSplit, tmp_path: Path
) -> None:
    source = save_network(cnn(), CNN, tmp_path / "a", split.specs(), ("logits",), ())
    data = StepData(split, seed=0, threads=1)
    results = {}
    for strength in (1e-6, 3.0):
        step = Sparsify(epochs=3, batch_size=30, penalty=kind, strength=strength)
        folder = tmp_path / str(strength)
        results[strength] = load_network(step.apply(source, data, folder))
        entry = Artifact.load(folder).lineage[-1]
        assert (entry.action, entry.config) == ("sparsify", asdict(step))
        assert len(entry.details["loss"]) == 3
    scales = {
        strength: torch.cat(
            [m.weight.detach() for m in n.modules() if isinstance(m, nn.BatchNorm2d)]
        )
        for strength, n in results.items()
    }
    assert float(scales[3.0].abs().mean()) < 0.9 * float(scales[1e-6].abs().mean())
