"""The scan of layers: what it finds on a network whose weak layer is known, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compress_models import make_tiny, make_torch
from safetensors.torch import load_file

from pqbench.compress.sensitivity import Sensitivity, rounded, smallest
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import load_network, save_like
from pqbench.nets.layers import feed_tensors, first_output


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


@pytest.fixture
def fitted(tmp_path: Path, split: PreparedSplit) -> Artifact:
    """``Tiny`` with a head solved by least squares on the split: it knows its images."""
    source = make_tiny(tmp_path / "source", split)
    network = load_network(source)
    kept: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        network(*feed_tensors(split, ["input"], slice(0, len(split))))
    hook.remove()
    wanted = torch.eye(2)[torch.from_numpy(np.array(split.labels()))] - 0.5
    features = torch.cat([kept[0], torch.ones(len(split), 1)], 1)
    solved = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
    with torch.no_grad():
        network.head.weight.copy_(solved[:-1].T)
        network.head.bias.copy_(solved[-1])
    return save_like(network, source, tmp_path / "fitted", LineageEntry("fit", 0.0))


def _top1(artifact: Artifact, split: PreparedSplit) -> float:
    with torch.no_grad():
        output = load_network(artifact)(*feed_tensors(split, ["input"], slice(0, len(split))))
    return float((first_output(output).argmax(1).numpy() == split.labels()).mean())


@pytest.mark.parametrize("action", ["prune", "quantize"])
def test_sensitivity_finds_each_layers_drop_and_leaves_the_model(
    action: str, tmp_path: Path, fitted: Artifact, data: StepData
) -> None:
    step = Sensitivity(action=action, ratio=0.9, bits=2, images=48)
    result = step.apply(fitted, data, tmp_path)
    ours, theirs = load_file(result.path), load_file(fitted.path)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    details = Artifact.load(tmp_path).lineage[-1].details
    assert list(details["sensitivity"]) == ["body.0", "body.3", "hidden", "head"]
    assert details["split"] == "train"
    assert details["top1"] == pytest.approx(_top1(fitted, data.train))
    assert details["top1"] > 0.9
    # The drop of one layer, made by hand.
    network = load_network(fitted)
    weight = network.hidden.weight
    with torch.no_grad():
        if action == "quantize":
            rounded(weight, 2, True)
        else:
            gone = smallest(weight, 0.9)
            weight[gone] = 0
            network.hidden.bias[gone] = 0
    (tmp_path / "hand").mkdir()
    by_hand = save_like(network, fitted, tmp_path / "hand", LineageEntry("fit", 0.0))
    drop = 100 * (details["top1"] - _top1(by_hand, data.train))
    assert details["sensitivity"]["hidden"] == pytest.approx(drop)
    assert max(details["sensitivity"].values()) > 2


def test_sensitivity_takes_the_batch_norm_with_the_channels(
    tmp_path: Path, split: PreparedSplit
) -> None:
    from pqbench.compress.sensitivity import _layers

    network = load_network(make_torch("mobilenet_v3_small", tmp_path, split))
    layers = _layers(network, feed_tensors(split, ["input"], slice(0, 2)))
    modules = dict(network.named_modules())
    assert layers["features.0.0"] == (modules["features.0.0"], modules["features.0.1"])
    assert layers["features.1.block.1.fc1"] == (modules["features.1.block.1.fc1"], None)
    assert layers["classifier.3"] == (modules["classifier.3"], None)
    assert len(layers) == 54


def test_rounded_to_eight_bits_per_channel_is_close_and_per_tensor_is_not() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 16) * torch.logspace(-3, 0, 8)[:, None]
    for per_channel, worst in ((True, 0.02), (False, 1.0)):
        copy = weight.clone()
        rounded(copy, 8, per_channel)
        error = ((copy - weight).norm(dim=1) / weight.norm(dim=1)).max()
        assert error < worst if per_channel else error > 0.5
        assert len(copy[0].unique()) <= 255


def test_smallest_takes_the_share_of_least_norm_and_never_all() -> None:
    weight = torch.tensor([[3.0], [1.0], [2.0], [4.0]])
    assert smallest(weight, 0.5).tolist() == [1, 2]
    assert smallest(weight, 0.01).tolist() == [1]
    assert smallest(weight, 0.99).tolist() == [1, 2, 0]
