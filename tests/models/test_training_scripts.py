"""Scripts that train what pqbench ships or measures: what they move, copy and put in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mobilenet_from_lite as parts
import numpy as np
import pytest
import torch
import torchvision
import train_away
import train_cifar
from prepared_images import elpv_split
from safetensors.torch import load_file, save_file
from smaller import Smaller
from torch import nn
from trained import Trained

from pqbench.compress.prune import Prune
from pqbench.core.artifact import LineageEntry, TensorSpec
from pqbench.core.errors import WeightsError
from pqbench.core.step import StepData
from pqbench.models.cnn import Cnn
from pqbench.models.efficientnet_lite import efficientnet_lite0
from pqbench.nets.checkpoint import load_network, save_network

CNN = {"_target_": "pqbench.models.cnn.Cnn", "num_classes": 10, "width": 32}


def test_moved_images_are_shifted_and_mirrored_copies() -> None:
    images = torch.randint(1, 256, (64, 3, 32, 32), dtype=torch.uint8)
    moved = train_cifar.moved(images, torch.Generator().manual_seed(0), limit=2)
    assert moved.shape == images.shape
    mirrored = 0
    for before, after in zip(images, moved, strict=True):
        inner = after[:, 4:28, 4:28]
        places = [(i, j) for i in range(2, 7) for j in range(2, 7)]
        ways = {
            flip: any(
                torch.equal((before.flip(2) if flip else before)[:, i : i + 24, j : j + 24], inner)
                for i, j in places
            )
            for flip in (False, True)
        }
        assert sum(ways.values()) == 1
        mirrored += ways[True]
    assert 16 < mirrored < 48


def test_symmetric_padding_keeps_shapes_and_pads_alike() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network = efficientnet_lite0(2, image_size=64).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = network(x)
        parts.symmetric_padding(network)
        after = network(x)
        stem: Any = network
        both = stem._conv_stem(x), stem._conv_stem(x.flip(3))
    assert before.shape == after.shape
    assert not torch.equal(before, after)
    assert both[0].shape == both[1].shape == (1, 32, 32, 32)


def test_copied_part_gives_what_its_origin_gives() -> None:
    """Block 7 of the student has all channels of its origin: only the activations differ."""
    pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    teacher: Any = efficientnet_lite0(2, image_size=64)
    student: Any = torchvision.models.mobilenet_v3_large(num_classes=2)
    for network in (teacher, student):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    parts.symmetric_padding(teacher)
    picked = parts.copy_parts(teacher, student)
    assert picked.unique().numel() == 160
    x = torch.randn(8, 40, 16, 16)
    with torch.inference_mode():
        wanted = teacher.train()._blocks[5](x)
        given = student.train().features[7](x)
    error = (given - wanted).square().mean() / wanted.var()
    assert error < 0.1
    assert torch.equal(student.classifier[3].weight, teacher._fc.weight)


@pytest.fixture
def dense(tmp_path: Path) -> Any:
    spec = TensorSpec("input", (None, 3, 32, 32))
    return save_network(Cnn(10, 32), CNN, tmp_path / "dense", (spec,), ("scores",), ())


def test_smaller_network_takes_the_models_place(dense: Any, tmp_path: Path) -> None:
    network = Cnn(10, 16).eval()
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors"
    )
    step = Smaller(str(tmp_path / "w.safetensors"), {"width": 16})
    data: Any = StepData(train=None, seed=0, threads=1)  # type: ignore[arg-type]
    found = load_network(step.apply(dense, data, tmp_path / "small"))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(x), network(x))
    wrong = Smaller(str(tmp_path / "w.safetensors"), {"width": 24})
    with pytest.raises((WeightsError, RuntimeError), match="size mismatch"):
        wrong.apply(dense, data, tmp_path / "wrong")


def test_network_trained_away_comes_home(tmp_path: Path) -> None:
    stages = tmp_path / "fresh" / "cache" / "stages"
    split = elpv_split(stages / "split", 24, 32)
    spec = TensorSpec("input", (None, 3, 32, 32))
    builder = {**CNN, "num_classes": 2}
    source = (LineageEntry("source", 0.0),)
    dense = save_network(Cnn(2, 32), builder, stages / "dense", (spec,), ("scores",), source)
    data = StepData(train=split, seed=0, threads=1)
    with pytest.raises(SystemExit, match="0 pruned models and 1 train splits, not one of each"):
        train_away.pack(tmp_path / "pack", "cnn", tmp_path / "fresh")
    (stages / "pruned").mkdir()
    pruned = Prune(0.5, criterion="magnitude_l2").apply(dense, data, stages / "pruned")
    train_away.pack(tmp_path / "pack", "cnn", tmp_path / "fresh")
    with pytest.raises(SystemExit, match="exists: take another name"):
        train_away.pack(tmp_path / "pack", "cnn", tmp_path / "fresh")
    train_away.unpack(tmp_path / "pack")
    packed = np.load(tmp_path / "pack" / "cnn" / "train" / "input.npy")
    assert np.array_equal(packed, split.stored("input"))
    prune = {"pruning_ratio": 0.5, "criterion": "magnitude_l2"}
    tune = {"epochs": 1, "batch_size": 8, "teacher_weight": 0.5, "augment": "crop"}
    (tmp_path / "out").mkdir()
    job = {"model": "cnn", "prune": prune, "tune": tune}
    train_away.train(tmp_path / "pack", tmp_path / "out", job, 1)
    weights = tmp_path / "out" / "cnn-magnitude_l2-0.5.safetensors"
    assert json.loads(weights.with_suffix(".json").read_text())["device"]

    for name in ("other", "home", "wrong"):
        (tmp_path / name).mkdir()
    home = Trained(str(weights)).apply(pruned, data, tmp_path / "home")
    state = load_network(home).state_dict()
    for key, value in load_file(weights).items():
        assert torch.equal(state[key], value.to(state[key].dtype))
    assert home.lineage[-1].action == "trained"
    assert home.lineage[-1].details["train_images"] == 24
    other = Prune(0.25).apply(dense, data, tmp_path / "other")
    with pytest.raises(WeightsError, match=r"pruning_ratio=0.5, this one has prune: .*0.25"):
        Trained(str(weights)).apply(other, data, tmp_path / "wrong")


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([{"model": "cnn", "prune": {"pruning_ratio": 2}, "tune": {}}], "job 0: .*pruning_ratio"),
        ([{"model": "cnn", "prune": {}, "tune": {"epoch": 2}}], "job 0: .*epoch"),
        ([{"model": "other", "prune": {}, "tune": {}}], "job 0: no .*other: pack it first"),
        ([{"model": "cnn", "prune": {}, "tune": {}}] * 2, "job 1: a second cnn-output_change-0.3"),
    ],
)
def test_jobs_that_cannot_be_done_are_refused(
    jobs: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    (tmp_path / "cnn").mkdir()
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    with pytest.raises(SystemExit, match=said):
        train_away.read_jobs(tmp_path / "jobs.json", tmp_path)
