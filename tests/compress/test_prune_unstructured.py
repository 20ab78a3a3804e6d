"""Zeros in weights: how many, where, and what the file makes of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
import torch
from compress_models import make_torch

from pqbench.compress.prune_unstructured import PruneUnstructured, pattern_mask
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import load_network


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    return make_torch("mobilenet_v3_small", tmp_path_factory.mktemp("source"), split)


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def _weights(artifact: Artifact) -> torch.Tensor:
    network = load_network(artifact)
    return torch.cat([p.flatten() for p in network.parameters() if p.dim() > 1])


def test_unstructured_zeroes_the_share_asked_and_keeps_shapes(
    tmp_path: Path, source: Artifact, data: StepData
) -> None:
    step = PruneUnstructured(sparsity=0.7, recalibrate_bn=0)
    result = step.apply(source, data, tmp_path)
    before, after = _weights(source), _weights(result)
    assert before.shape == after.shape
    assert (after == 0).float().mean() == pytest.approx(0.7, abs=1e-3)
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    assert before[~kept].abs().max() <= before[kept].abs().min()
    details = result.lineage[-1].details
    assert details["zero_share"] == pytest.approx(0.7, abs=0.03)
    raw, pruned = source.path.read_bytes(), result.path.read_bytes()
    assert len(raw) == len(pruned)
    assert len(zlib.compress(pruned, 1)) < 0.6 * len(zlib.compress(raw, 1))


def test_unstructured_by_layer_takes_the_same_share_everywhere(
    tmp_path: Path, source: Artifact, data: StepData
) -> None:
    step = PruneUnstructured(sparsity=0.4, scope="layer", ignored_layers=["classifier"])
    details = step.apply(source, data, tmp_path).lineage[-1].details
    assert all(abs(share - 0.4) < 0.05 for share in details["layers"].values())
    assert not any(name.startswith("classifier") for name in details["layers"])
    assert details["batch_norm_images"] > 0


def test_pattern_keeps_the_largest_of_each_group(
    tmp_path: Path, source: Artifact, data: StepData
) -> None:
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.5, 0.1, -0.2, 0.3]])
    assert pattern_mask(weight, 2, 4).tolist() == [[0, 1, 1, 0, 1, 0, 0, 1]]
    result = PruneUnstructured(pattern="2:4", recalibrate_bn=0).apply(source, data, tmp_path)
    conv = load_network(result).get_submodule("features.12.0").weight.flatten(1)
    assert ((conv.reshape(-1, 4) != 0).sum(1) == 2).all()
    assert "features.0.0.weight" not in result.lineage[-1].details["layers"]  # three inputs


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "half", "2:4:8"])
def test_pattern_that_cannot_be_meant_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"prune_unstructured\.pattern"):
        PruneUnstructured(pattern=pattern)


def test_unstructured_without_weights_is_refused(
    tmp_path: Path, source: Artifact, data: StepData
) -> None:
    with pytest.raises(UnsupportedError, match="no weights to zero"):
        PruneUnstructured(ignored_layers=["features", "classifier"]).apply(source, data, tmp_path)
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        PruneUnstructured(ignored_layers=["nowhere"]).apply(source, data, tmp_path)
