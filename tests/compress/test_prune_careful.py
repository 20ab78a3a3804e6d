"""Networks whose channels take ways that a dependency graph does not follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from user_cases import prepared

from pqbench.compress.attention_heads import find_attention
from pqbench.compress.prune import Prune
from pqbench.core.artifact import Artifact
from pqbench.core.errors import UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import build_network, load_network, save_network
from pqbench.nets.layers import parameter_count

NODE = {"preprocess": {"resize": 32, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}}


@pytest.fixture(scope="module")
def train(case_images: Path, tmp_path_factory: Any) -> PreparedSplit:
    return prepared(case_images / "binary", tmp_path_factory.mktemp("t"), NODE, split="train")


def pruned(target: str, train: PreparedSplit, folder: Path, **settings: Any) -> Artifact:
    torch.manual_seed(0)
    builder = {"_target_": target}
    source = save_network(
        build_network(builder), builder, folder / "a", train.specs(), ("logits",), ()
    )
    (folder / "b").mkdir()
    step = Prune(**{"recalibrate_bn": 0, **settings})
    return step.apply(source, StepData(train=train, seed=0, threads=1), folder / "b")


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("C2fNet", "c2f."),
        ("PixShuf", "stem.1.0"),
        ("ShuffleNetish", "units"),
        ("HardView", "body.2.0"),
        ("CatTwice", ""),
        ("Cbam", ""),
    ],
)
def test_prune_leaves_alone_what_would_break_and_names_it(
    kind: str, left: str, train: PreparedSplit, tmp_path: Path
) -> None:
    artifact = pruned(f"tbnets.{kind}", train, tmp_path, round_to=4)
    details = artifact.lineage[-1].details
    assert details["parameters_after"] < 0.95 * details["parameters_before"]
    assert any(name.startswith(left) for name in details["left_alone"]) == bool(left)
    network = load_network(Artifact.load(artifact.folder))
    x = torch.from_numpy(train.feed(slice(0, 3))["input"])
    with torch.inference_mode():
        assert network(x).shape == (3, 10)
    assert parameter_count(network) == details["parameters_after"]


def test_prune_keeps_shared_weights_shared(train: PreparedSplit, tmp_path: Path) -> None:
    artifact = pruned("user_networks.TiedNetwork", train, tmp_path, round_to=4)
    network = load_network(Artifact.load(artifact.folder))
    modules = dict(network.named_modules())
    assert modules["a"].weight is modules["b"].weight
    assert modules["hidden"].out_features < 64
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_prune_says_what_breaks_where_nothing_is_left(train: PreparedSplit, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"removed nothing.*breaks it: stem\.1\.0 \("):
        pruned("tbnets.PixShuf", train, tmp_path, ignored_layers=("after", "stem.0"), round_to=4)


class TimmBlock(torch.nn.Module):
    """An attention of timm's kind, whose heads have a width of their own."""

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import Attention

        self.patch = torch.nn.Conv2d(3, 48, 8, 8)
        self.attn = Attention(48, num_heads=4, qkv_bias=True)
        self.fc = torch.nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc((x + self.attn(x)).mean(1))


@pytest.mark.parametrize("target", ["tbnets.Vit", f"{__name__}.TimmBlock"])
def test_prune_removes_heads_of_fused_attention_whole(
    target: str, train: PreparedSplit, tmp_path: Path
) -> None:
    if "Timm" in target:
        pytest.importorskip("timm")
    artifact = pruned(target, train, tmp_path, round_to=4)
    details = artifact.lineage[-1].details
    heads = details["attention_heads"]
    assert heads
    assert all(pair == [4, 3] for pair in heads.values())
    network = load_network(Artifact.load(artifact.folder))
    for name in heads:
        attention = dict(network.named_modules())[name]
        assert attention.num_heads == 3
        assert attention.qkv.out_features == 3 * attention.proj.in_features
    with torch.inference_mode():
        assert network(torch.zeros(3, 3, 32, 32)).shape == (3, 10)


def test_find_attention_passes_over_another_layout() -> None:
    class Interleaved(torch.nn.Module):
        """Heads first, then query, key and value."""

        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.qkv, self.proj = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, length, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, length, 4, 3, 4).permute(3, 0, 2, 1, 4)
            mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.proj(mixed.transpose(1, 2).reshape(n, length, 16))

    torch.manual_seed(0)
    network = torch.nn.Sequential(Interleaved())
    assert find_attention(network.eval(), (torch.randn(2, 5, 16),)) == []
