"""Networks whose channels take ways that a dependency graph does not follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from user_cases import prepared

from pqbench.compress.attention_heads import find_attention
from pqbench.compress.criteria import CRITERIA
from pqbench.compress.head_ranking import Attention, Ranking
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


def pruned(network: str, train: PreparedSplit, folder: Path, **settings: Any) -> Artifact:
    torch.manual_seed(0)
    builder = {"_target_": network}
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


class Multihead(torch.nn.Module):
    """Torch's own attention, of a width that stays a multiple of its heads when it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 64, 8, 8)
        self.attn = torch.nn.MultiheadAttention(64, 8, batch_first=True)
        self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.fc((x + self.down(self.up(x).relu())).mean(1))


def test_prune_leaves_the_heads_of_multihead_attention_whole(
    train: PreparedSplit, tmp_path: Path
) -> None:
    artifact = pruned(f"{__name__}.Multihead", train, tmp_path)
    details = artifact.lineage[-1].details
    assert details["layers"]["patch"] == [64, 64]
    assert details["layers"]["up"] == [128, 88]
    assert "Torch-Pruning shifts" in details["left_alone"]["attn"]
    network = load_network(Artifact.load(artifact.folder))
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


class Separate(Multihead):
    """Attention as BERT has it: the width of a head is what the width of all leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.heads = 8
        for name in ("query", "key", "value"):
            self.attn.add_module(name, torch.nn.Linear(64, 64))
        self.out = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(x).unflatten(2, (8, -1)).transpose(1, 2)
            for layer in (self.attn.query, self.attn.key, self.attn.value)
        )
        mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.fc((x + self.down(self.up(x).relu())).mean(1))


def test_prune_leaves_the_heads_of_separate_queries_keys_and_values_whole(
    train: PreparedSplit, tmp_path: Path
) -> None:
    details = pruned(f"{__name__}.Separate", train, tmp_path).lineage[-1].details
    for layer in ("attn.query", "attn.key", "attn.value"):
        assert details["layers"][layer] == [64, 64]
        assert "a channel's place in them is its head" in details["left_alone"][layer]
    assert details["layers"]["up"] == [128, 88]


def attention(heads: int = 8, dim: int = 4) -> Attention:
    module = torch.nn.Module()
    module.heads = heads
    module.qkv, module.proj = torch.nn.Linear(16, 3 * heads * dim), torch.nn.Linear(heads * dim, 16)
    return Attention("attn", module, module.qkv, module.proj, "heads")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_head_ranking_follows_the_criterion(criterion: str) -> None:
    """Heads 2 and 5 have the largest weights and no gradient; head 7's twin is head 0."""
    torch.manual_seed(0)
    one = attention()
    with torch.no_grad():
        one.qkv.weight[one.rows([2, 5])] *= 5
        one.qkv.weight[one.rows([7])] = one.qkv.weight[one.rows([0])]
        one.out.weight[:, one.columns([7])] = one.out.weight[:, one.columns([0])]
    for layer in (one.qkv, one.out):
        layer.weight.grad = torch.ones_like(layer.weight)
    one.qkv.weight.grad[one.rows([2, 5])] = 0
    one.out.weight.grad[:, one.columns([2, 5])] = 0
    network = torch.nn.ModuleDict({"attn": one.module})
    stay = Ranking(0.25, criterion).stay(network, [one])
    gone = set(range(8)) - set(stay.get("attn", range(8)))
    if criterion == "bn_scale":
        assert stay == {}
    elif criterion in ("output_change", "taylor", "hessian"):
        assert gone == {2, 5}
    elif criterion == "random":
        others = {tuple(Ranking(0.25, criterion).stay(network, [one])["attn"]) for _ in range(20)}
        assert len(others) > 5
    else:
        assert len(gone) == 2
        assert not gone & {2, 5}


def test_head_ranking_heeds_ratios_limit_and_scope() -> None:
    torch.manual_seed(0)
    strong, weak = attention(), attention()
    with torch.no_grad():  # of weak, six heads are far below the mean
        weak.qkv.weight[weak.rows([0, 1, 2, 3, 4, 5])] *= 0.01
    weak = replace(weak, name="weak")
    both, network = (
        [strong, weak],
        torch.nn.ModuleDict({"attn": strong.module, "weak": weak.module}),
    )
    counts = [
        {name: len(heads) for name, heads in ranking.stay(network, both).items()}
        for ranking in (
            Ranking(0.95, most=0.5),
            Ranking(0.25, own={"attn": 0.0, "weak.qkv": 0.5}),
            Ranking(0.375, together=True),
            Ranking(0.375, together=True, most=0.5),
        )
    ]
    assert counts == [{"attn": 4, "weak": 4}, {"weak": 4}, {"weak": 2}, {"weak": 4}]


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"pruning_ratio": 0.9, "max_layer_ratio": 0.5}, 2),
        ({"layer_ratios": {"attn": 0.5}}, 2),
        ({"criterion": "taylor", "gradient_images": 8, "pruning_ratio": 0.5}, 2),
    ],
)
def test_prune_cuts_heads_by_its_settings(
    settings: dict[str, Any], left: int, train: PreparedSplit, tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    artifact = pruned(f"{__name__}.TimmBlock", train, tmp_path, round_to=4, **settings)
    assert artifact.lineage[-1].details["attention_heads"] == {"attn": [4, left]}


def test_prune_to_a_target_tells_the_heads_of_the_network_it_keeps(
    train: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt that is kept is not the last one, which cuts fewer heads."""
    pytest.importorskip("timm")
    from pqbench.compress import prune_target

    monkeypatch.setattr(prune_target, "TRIALS", 1)  # 0.95 at first, then 0.475: too little
    artifact = pruned(
        f"{__name__}.TimmBlock", train, tmp_path, target="parameters", pruning_ratio=0.3, round_to=4
    )
    details = artifact.lineage[-1].details
    assert details["channel_ratio"] == 0.95
    network = load_network(Artifact.load(artifact.folder))
    assert details["attention_heads"] == {"attn": [4, network.attn.num_heads]}


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
