"""Masks that are kept: what they compute, what they cost in the file, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compress_models import make_tiny, make_torch

from pqbench.backends.torch.backend import TorchBackend
from pqbench.compress.prune_masked import PruneMasked
from pqbench.compress.recipe import plan
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import load_network


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


@pytest.mark.parametrize("mode", ["eager", "script"])
def test_masked_network_computes_with_zeros_and_its_file_grows(
    mode: str, tmp_path: Path, data: StepData
) -> None:
    source = make_torch("mobilenet_v3_small", tmp_path / "source", data.train)
    result = PruneMasked(sparsity=0.5).apply(source, data, tmp_path / "masked")
    loaded = Artifact.load(tmp_path / "masked")
    details = loaded.lineage[-1].details
    assert details["zero_share"] == pytest.approx(0.5, abs=0.01)
    grown = result.path.stat().st_size - source.path.stat().st_size
    assert grown == pytest.approx(4 * details["masked_parameters"], rel=0.05)
    # The reference: the same zeros, made permanent by hand.
    plain = load_network(source)
    with torch.no_grad():
        for name in details["layers"]:
            weight = plain.get_submodule(name).weight
            assert isinstance(weight, torch.Tensor)
            flat = weight.abs().flatten()
            weight.flatten()[flat.argsort()[: round(0.5 * len(flat))]] = 0.0
            assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    x = data.train.feed(slice(0, 4))
    with torch.inference_mode():
        wanted = plain(*(torch.from_numpy(v) for v in x.values())).numpy()
    session = TorchBackend(threads=1, mode=mode).load(loaded, [4])
    assert session.run(x)[0] == pytest.approx(wanted, abs=1e-4)


def test_masks_go_to_no_other_format_and_no_further_step(tmp_path: Path, data: StepData) -> None:
    with pytest.raises(UnsupportedError, match="prune_unstructured makes their zeros permanent"):
        plan({"prune_masked": PruneMasked}, "torch", ("onnx",), "ort")
    network = torch.nn.Sequential(torch.nn.ReLU())
    assert not list(network.parameters())
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PruneMasked(sparsity=1.0)
    masked = PruneMasked().apply(make_tiny(tmp_path / "s", data.train, True), data, tmp_path / "m")
    layers = masked.lineage[-1].details["layers"]
    assert layers
    assert "lstm" not in layers
