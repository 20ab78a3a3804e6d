"""Bytes, parameters and multiply-accumulates."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from session_backends import write_numpy_model
from torch import nn

from pqbench.cache.seal import seal
from pqbench.core.artifact import Artifact, LineageEntry, TensorSpec
from pqbench.measure.size import count_macs, count_work, measure_files, one_sample, zipped_bytes
from pqbench.nets.checkpoint import save_network


@pytest.mark.parametrize(
    ("name", "published"),
    [("mobilenet_v3_large", 0.22), ("resnet18", 1.81), ("densenet121", 2.83)],
)
def test_count_macs_agrees_with_torchvision(name: str, published: float) -> None:
    models = pytest.importorskip("torchvision.models")
    network = getattr(models, name)(weights=None).eval()
    macs = count_macs(network, [torch.ones(1, 3, 224, 224)])
    assert round(macs / 1e9, 2) == published


def test_count_macs_sees_a_subclass_of_conv2d() -> None:
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    network = lite.EfficientNet.from_name("efficientnet-lite0").eval()
    macs = count_macs(network, [torch.ones(1, 3, 224, 224)])
    assert round(macs / 1e9, 2) == 0.39


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("projection", [0, 5])
@pytest.mark.parametrize("batch_first", [False, True])
def test_count_macs_of_an_lstm_is_every_weight_once_per_step(
    bidirectional: bool, projection: int, batch_first: bool
) -> None:
    lstm = nn.LSTM(
        10, 20, 2, batch_first=batch_first, bidirectional=bidirectional, proj_size=projection
    ).eval()
    x = torch.ones((3, 7, 10) if batch_first else (7, 3, 10))
    weights = sum(p.numel() for name, p in lstm.named_parameters() if "weight" in name)
    assert count_macs(lstm, [x]) == weights * 3 * 7


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_count_macs_of_other_recurrent_layers(kind: type[nn.RNNBase]) -> None:
    layers = kind(4, 6, 1, batch_first=True).eval()
    weights = sum(p.numel() for name, p in layers.named_parameters() if "weight" in name)
    assert count_macs(layers, [torch.ones(1, 5, 4)]) == weights * 5


def test_count_macs_adds_recurrent_and_other_layers() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    macs = count_macs(Tagger().eval(), [torch.ones(1, 5, 4)])
    assert macs == 5 * 4 * 6 * (4 + 6) + 6 * 3


def test_one_sample_needs_all_sizes_but_the_batch() -> None:
    specs = [TensorSpec("ids", (None, 5), "int64"), TensorSpec("mask", (None, 5), "int64")]
    ids, _ = one_sample(specs) or []
    assert (ids.shape, ids.dtype) == ((1, 5), torch.int64)
    assert one_sample([TensorSpec("ids", (None, None), "int64")]) is None


def test_zipped_bytes_is_the_size_of_the_archive(tmp_path: Path) -> None:
    a, b, archive = tmp_path / "a", tmp_path / "b", tmp_path / "x.zip"
    a.write_bytes(b"0" * 100_000)
    b.write_bytes(np.random.default_rng(0).bytes(10_000))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        file.write(a, "a")
        file.write(b, "b")
    assert abs(zipped_bytes([a, b]) - archive.stat().st_size) < 100  # descriptors of a stream
    assert 10_000 < zipped_bytes([a, b]) < 11_000


def test_count_work_counts_a_network_with_zeros(tmp_path: Path) -> None:
    builder = {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 4}
    network = nn.Linear(8, 4)
    with torch.no_grad():
        network.weight[0] = 0
    artifact = save_network(
        network,
        builder,
        tmp_path / "m",
        (TensorSpec("input", (None, 8)),),
        ("output",),
        (LineageEntry("source", 0.0),),
    )
    assert count_work(artifact) == {"parameters": 36, "nonzero_parameters": 28, "macs": 32}
    size = measure_files(artifact)
    assert size["file_bytes"] == sum(f.stat().st_size for f in artifact.model_files())
    assert size["zipped_bytes"] > 0


def test_measure_files_counts_what_a_deployment_needs(tmp_path: Path) -> None:
    artifact = Artifact.load(write_numpy_model(tmp_path / "m"))
    assert measure_files(artifact)["file_bytes"] == artifact.path.stat().st_size
    seal(artifact.folder, {"value": {}, "seconds": 1.0})  # in the cache
    assert measure_files(artifact)["file_bytes"] == artifact.path.stat().st_size
