"""Networks whose channels take ways that a dependency graph does not follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from user_cases import prepared

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
        ("Vit", "blocks"),
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
