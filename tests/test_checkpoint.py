"""A torch network comes back exactly, whatever was done to its shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import ConfigError, UnsupportedError, WeightsError
from pqbench.nets.checkpoint import build_network, load_network, save_network

INPUTS = (TensorSpec("input", (None, 3, 64, 64)),)


VIT = {  # as vit_b_16, but small
    "_target_": "torchvision.models.VisionTransformer", "image_size": 64, "patch_size": 16,
    "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128,
}  # fmt: skip


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "densenet121", "vit"])
def test_pruned_network_with_a_new_head_reloads_exactly(tmp_path: Path, name: str) -> None:
    import torch
    import torch_pruning as tp

    builder = VIT if name == "vit" else {"_target_": f"torchvision.models.{name}"}
    network = build_network(builder)
    head = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
    head.weight = torch.nn.Parameter(head.weight[:3].detach().clone())
    head.bias = torch.nn.Parameter(head.bias[:3].detach().clone())
    head.out_features = 3
    x = torch.randn(2, 3, 64, 64)
    if name != "vit":
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        tp.pruner.BasePruner(
            network, x, importance, pruning_ratio=0.4, ignored_layers=[head], round_to=8
        ).step()
    network.eval()
    saved = save_network(network, builder, tmp_path / "a", INPUTS, ("logits",), ())
    again = load_network(Artifact.load(saved.folder))
    with torch.inference_mode():
        assert torch.equal(network(x), again(x))
        assert again(x).shape == (2, 3)


def test_network_with_other_modules_than_its_builder_is_refused(tmp_path: Path) -> None:
    import torch

    builder = {"_target_": "torchvision.models.mobilenet_v3_small"}
    network = build_network(builder)
    network.add_module("extra", torch.nn.Linear(1, 1))
    with pytest.raises(UnsupportedError, match="extra"):
        save_network(network, builder, tmp_path / "a", INPUTS, ("logits",), ())


def test_missing_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    builder = {"_target_": "torchvision.models.mobilenet_v3_small"}
    saved = save_network(build_network(builder), builder, tmp_path / "a", INPUTS, ("logits",), ())
    tensors = load_file(saved.path)
    tensors.pop("classifier.3.weight")
    save_file(tensors, saved.path)
    with pytest.raises(WeightsError, match=r"classifier\.3\.weight"):
        load_network(saved)


@pytest.mark.parametrize("target", ["os.system", "torchvision.models.no_such", "builtins.dict"])
def test_builder_that_is_no_network_is_refused(target: str) -> None:
    with pytest.raises(ConfigError):
        build_network({"_target_": target})


def test_shared_weights_stay_shared_through_saving_and_training(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    builder = {"_target_": "user_networks.TiedNetwork"}
    network = build_network(builder)
    saved = save_network(network, builder, tmp_path / "a", INPUTS, ("logits",), ())
    names = load_file(saved.path).keys()
    assert "b.weight" not in names  # written once
    assert sum(name.startswith("blocks.") for name in names) == 7
    again = load_network(saved)
    modules = dict(again.named_modules())
    assert modules["a"].weight is modules["b"].weight
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(network(x), again(x))
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again.train()(x).square().mean().backward()
    optimizer.step()
    trained = save_network(again.eval(), builder, tmp_path / "b", INPUTS, ("logits",), ())
    with torch.inference_mode():
        assert torch.equal(again(x), load_network(trained)(x))
        assert not torch.equal(again(x), network(x))
