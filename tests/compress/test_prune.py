"""Structured pruning of real architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compress_models import BUILDERS, make_torch
from torch import nn

from pqbench.artifact import Artifact
from pqbench.checkpoint import load_network
from pqbench.compress.base import StepData
from pqbench.compress.prune import CRITERIA, Prune
from pqbench.errors import ConfigError, UnsupportedError
from pqbench.inputs import PreparedSplit
from pqbench.networks import (
    feed_tensors,
    flush_subnormals,
    output_layers,
    parameter_count,
    recalibrate_batch_norm,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    return make_torch("mobilenet_v3_small", tmp_path_factory.mktemp("small"), split)


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_prune_shrinks_the_network_and_reloads_exactly(
    name: str, tmp_path: Path, split: PreparedSplit, data: StepData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pqbench.compress.prune as module

    source = make_torch(name, tmp_path / "source", split)
    kept: list[nn.Module] = []
    save = module.save_like
    monkeypatch.setattr(
        module, "save_like", lambda network, *rest: kept.append(network) or save(network, *rest)
    )
    pruned = Prune(recalibrate_bn=32).apply(source, data, tmp_path / "pruned")

    reloaded = load_network(Artifact.load(pruned.folder))
    (x,) = feed_tensors(split, ["input"], slice(0, 4))
    with torch.no_grad():
        expected, got = kept[0](x), reloaded(x)
        assert expected.shape == load_network(source)(x).shape
    assert torch.equal(expected, got)
    details = pruned.lineage[-1].details
    assert pruned.lineage[-1].action == "prune"
    assert details["parameters_after"] == parameter_count(reloaded)
    assert 0.3 < details["parameter_reduction"] < 0.7
    assert 0.2 < details["channel_reduction"] < 0.4
    assert details["batch_norm_images"] == 32
    (head,) = details["never_pruned"]
    before, after = details["layers"][head]
    assert before == after
    assert all(b % 8 or not a % 8 for b, a in details["layers"].values() if a != b and a >= 8)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_prune_works_by_every_criterion(
    criterion: str, tmp_path: Path, small: Artifact, data: StepData
) -> None:
    step = Prune(criterion=criterion, global_pruning=criterion == "lamp", recalibrate_bn=0)
    details = step.apply(small, data, tmp_path).lineage[-1].details
    assert details["parameter_reduction"] > 0.2
    assert details["batch_norm_images"] == 0


def test_prune_is_reproducible(tmp_path: Path, small: Artifact, data: StepData) -> None:
    step = Prune(criterion="random", recalibrate_bn=0)
    hashes = {step.apply(small, data, tmp_path / n).content_hash() for n in ("a", "b")}
    assert len(hashes) == 1
    other = step.apply(small, StepData(data.train, seed=1, threads=1), tmp_path / "c")
    assert other.content_hash() not in hashes


def test_prune_leaves_ignored_layers_alone(tmp_path: Path, small: Artifact, data: StepData) -> None:
    step = Prune(ignored_layers=["features.12"], recalibrate_bn=0)
    layers = step.apply(small, data, tmp_path).lineage[-1].details["layers"]
    assert layers["features.12.0"][0] == layers["features.12.0"][1]
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        Prune(ignored_layers=["nowhere"]).apply(small, data, tmp_path)


def test_prune_that_removes_nothing_is_refused(
    tmp_path: Path, small: Artifact, data: StepData
) -> None:
    with pytest.raises(UnsupportedError, match=r"'fpgm' at ratio 0\.3 removed nothing"):
        Prune(criterion="fpgm", ignored_layers=["features", "classifier"]).apply(
            small, data, tmp_path
        )


def test_prune_of_a_foreign_input_is_refused(
    tmp_path: Path, small: Artifact, data: StepData
) -> None:
    from dataclasses import replace

    renamed = replace(small, inputs=(replace(small.inputs[0], name="tokens"),))
    with pytest.raises(UnsupportedError, match="input tokens is not in the prepared data"):
        Prune().apply(renamed, data, tmp_path)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.main = nn.Conv2d(8, 5, 1)
        self.side = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x)
        return {"main": self.main(x), "side": self.side(x.mean((2, 3)))}


def test_output_layers_finds_the_layer_of_each_output() -> None:
    found = output_layers(TwoHeads().eval(), (torch.zeros(2, 3, 8, 8),))
    assert list(found) == ["main", "side"]


def test_recalibration_measures_what_torch_measures(split: PreparedSplit) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    theirs = nn.Sequential(*ours)
    indices = np.arange(40)
    assert recalibrate_batch_norm(ours, split, ["input"], indices, batch_size=16) == 32
    mean = ours[1].running_mean.clone()
    batches = [feed_tensors(split, ["input"], indices[i : i + 16])[0] for i in (0, 16)]
    torch.optim.swa_utils.update_bn(batches, theirs)
    assert torch.allclose(mean, theirs[1].running_mean, atol=1e-6)
    assert not ours.training
    assert ours[1].momentum == 0.1


def test_flush_subnormals_zeroes_only_what_is_no_normal_number() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-40, -1e-39], [1e-37, 0.0]]))
    assert flush_subnormals(layer) == 2
    assert layer.weight[0].tolist() == [0.0, 0.0]
    assert layer.weight[1, 0] > 0
