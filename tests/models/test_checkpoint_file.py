"""Checkpoints as training tools write them, and files that are none."""

from __future__ import annotations

import argparse
import collections
import functools
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from pqbench.core.artifact import TensorSpec
from pqbench.core.errors import WeightsError
from pqbench.models.checkpoint_file import read_checkpoint
from pqbench.models.prepare import prepare_model
from pqbench.models.settings import ModelSettings
from pqbench.models.weights import match
from pqbench.nets.checkpoint import load_network


class Net(nn.Module):
    """Small, with BatchNorm."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch pqbench_was_here",))


def taken(path: Path, network: nn.Module, key: str | None = None) -> Any:
    return match(network, read_checkpoint(path), key)


def same(matched: Any, network: nn.Module) -> bool:
    own = network.state_dict()
    return all(torch.equal(matched.state[name], value) for name, value in own.items())


def prepare(path: Path, folder: Path, classes: tuple[str, ...], **change: Any) -> Any:
    target = f"{__name__}.Net"
    model: dict[str, Any] = {"name": "net", "network": {"_target_": target}, "head": "fc"}
    model |= {"weights": "file", "weights_file": str(path), "pretrained": None, **change}
    specs = (TensorSpec("input", (None, 3, 8, 8)),)
    return prepare_model(ModelSettings.from_plain(model), classes, "mine", None, specs, folder, 0)


def written(kind: str, network: Net, path: Path) -> None:
    """What a training tool writes."""
    state = network.state_dict()
    if kind == "timm":
        saver = pytest.importorskip("timm.utils").CheckpointSaver
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        optimizer.step()
        args = argparse.Namespace(model="net", lr=np.float64(0.1), output=Path("out"))
        made = saver(network, optimizer, args=args, checkpoint_dir=str(path.parent))
        made.save_checkpoint(epoch=1, metric=0.5)
        (path.parent / "last.pth.tar").rename(path)
    elif kind == "averaged":
        torch.save(torch.optim.swa_utils.AveragedModel(network).state_dict(), path)
    elif kind == "compiled":
        torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, path)
    elif kind == "ddp":
        torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 2}, path)
    elif kind == "template":  # lightning-hydra-template: hyper-parameters hold partials
        settings = {
            "optimizer": functools.partial(torch.optim.Adam, lr=1e-3),
            "scheduler": functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1),
            "config": OmegaConf.create({"root": "${oc.env:HOME}", "sizes": [1, 2.5, None]}),
            "criterion": nn.CrossEntropyLoss(),
            "lookup": collections.defaultdict(dict),
        }
        inside = {f"net.{k}": v for k, v in state.items()} | {"train_acc.total": torch.ones(1)}
        torch.save({"state_dict": inside, "hyper_parameters": settings}, path)


@pytest.mark.parametrize("kind", ["timm", "averaged", "compiled", "ddp", "template"])
def test_checkpoints_of_training_tools_are_read(kind: str, tmp_path: Path) -> None:
    network = Net()
    written(kind, network, tmp_path / "a.ckpt")
    assert same(taken(tmp_path / "a.ckpt", Net()), network)
    _, weights = prepare(tmp_path / "a.ckpt", tmp_path / "out", ("a", "b", "c"))
    assert (weights.head, weights.needs_fit) == ("kept", None)


def test_allowed_types_do_not_let_code_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = Net().state_dict()
    torch.save({"state_dict": state, "args": argparse.Namespace(x=Evil())}, "evil.pth")
    with pytest.raises(WeightsError, match=r"refused: it holds more than tensors \(posix\.system"):
        read_checkpoint(tmp_path / "evil.pth")
    torch.save({"state_dict": state, "config": os.path.join}, "function.pth")
    with pytest.raises(WeightsError, match=r"posixpath\.join"):
        read_checkpoint(tmp_path / "function.pth")
    assert not (tmp_path / "pqbench_was_here").exists()


def test_interpolations_of_a_stored_configuration_are_not_resolved(tmp_path: Path) -> None:
    called: list[int] = []
    OmegaConf.register_new_resolver("trap", lambda: called.append(1) or "x", replace=True)
    try:
        config = OmegaConf.create({"state_dict": "${trap:}", "classes": ["a", "${trap:}"]})
        torch.save({"state_dict": Net().state_dict(), "hyper_parameters": config}, tmp_path / "a")
        read_checkpoint(tmp_path / "a")
    finally:
        OmegaConf.clear_resolver("trap")
    assert not called


def test_averaged_weights_beside_raw_ones_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    raw, averaged = Net(), Net()
    content = {"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    plain = taken(tmp_path / "a.pth", Net())
    assert same(plain, raw)
    assert "'state_dict' was taken, not 'state_dict_ema'" in plain.notes("a.pth")[0]
    chosen = taken(tmp_path / "a.pth", Net(), "state_dict_ema")
    assert same(chosen, averaged)
    assert not chosen.notes("a.pth")
    with pytest.raises(WeightsError, match="may be one of: state_dict, state_dict_ema"):
        taken(tmp_path / "a.pth", Net(), "nowhere")
    _, weights = prepare(tmp_path / "a.pth", tmp_path / "out", ("a", "b", "c"))
    assert "state_dict_ema" in weights.notes[0]


def test_averaged_weights_under_a_prefix_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    raw, averaged = Net(), Net()
    inside = {f"model.{k}": v for k, v in raw.state_dict().items()}
    inside |= {f"ema_model.module.{k}": v for k, v in averaged.state_dict().items()}
    torch.save({"state_dict": inside}, tmp_path / "a.ckpt")
    plain = taken(tmp_path / "a.ckpt", Net())
    assert same(plain, raw)
    (other,) = plain.others
    assert other == "state_dict.ema_model.module"
    assert same(taken(tmp_path / "a.ckpt", Net(), other), averaged)
    assert same(taken(tmp_path / "a.ckpt", Net(), "ema_model.module"), averaged)


@pytest.mark.parametrize("key", ["net_avg", "swa_model", "modelEMA", "params_ema", "teacher"])
def test_averaged_weights_of_any_name_come_second_and_are_named(key: str, tmp_path: Path) -> None:
    raw, averaged = Net(), Net()
    torch.save({key: averaged.state_dict(), "weights_now": raw.state_dict()}, tmp_path / "a.pth")
    plain = taken(tmp_path / "a.pth", Net())
    assert same(plain, raw)
    assert f"not '{key}'" in plain.notes("a.pth")[0]
    torch.save({key: averaged.state_dict()}, tmp_path / "alone.pth")
    alone = taken(tmp_path / "alone.pth", Net())
    assert same(alone, averaged)
    assert alone.notes("alone.pth") == [
        f"alone.pth: '{key}' was taken, averaged weights by their name"
    ]


def test_averaged_weights_without_names_are_told(tmp_path: Path) -> None:
    network = Net()
    ema = {"decay": 0.9, "shadow_params": [p.detach() for p in Net().parameters()]}
    torch.save({"model": network.state_dict(), "ema": ema}, tmp_path / "a.pth")
    found = taken(tmp_path / "a.pth", Net())
    assert same(found, network)
    assert "averaged weights without names (ema.shadow_params)" in found.notes("a.pth")[0]


@pytest.mark.parametrize(
    "wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
@pytest.mark.parametrize("before", ["", "model.", "module."])
def test_wrappers_of_a_networks_parts_are_taken_out(
    before: str, wrapper: str, tmp_path: Path
) -> None:
    """As ``features.module.0.weight`` of PyTorch's ImageNet example."""
    network = Net()
    state = {
        f"{before}{n.replace('body.', f'body.{wrapper}.', 1)}": v
        for n, v in network.state_dict().items()
    }
    assert any(f".{wrapper}." in name or name.startswith(f"body.{wrapper}") for name in state)
    torch.save(state, tmp_path / "a.pth")
    assert same(taken(tmp_path / "a.pth", Net()), network)
    prepare(tmp_path / "a.pth", tmp_path / "out", ("a", "b", "c"))


def test_states_in_a_list_are_found(tmp_path: Path) -> None:
    first, second = Net(), Net()
    torch.save({"models": [first.state_dict(), second.state_dict()]}, tmp_path / "a.pth")
    found = taken(tmp_path / "a.pth", Net())
    assert same(found, first)
    assert "'models.0' was taken, not 'models.1'" in found.notes("a.pth")[0]
    assert same(taken(tmp_path / "a.pth", Net(), "models.1"), second)


def test_layers_that_the_network_lacks_are_still_an_error(tmp_path: Path) -> None:
    state = {f"model.{k}": v for k, v in Net().state_dict().items()}
    torch.save({"state_dict": {**state, "model.body.3.weight": torch.ones(4)}}, tmp_path / "a")
    with pytest.raises(WeightsError, match=r"1 unexpected: body\.3\.weight"):
        prepare(tmp_path / "a", tmp_path / "out", ("a", "b", "c"))


@pytest.mark.parametrize(
    "about",
    [
        {"class_to_idx": {"b": 0, "c": 1, "a": 2}},
        {"hyper_parameters": {"classes": ["b", "c", "a"]}},
        {"args": argparse.Namespace(id2label={"0": "b", "1": "c", "2": "a"})},
    ],
)
def test_order_of_classes_is_read_from_the_checkpoint(about: Any, tmp_path: Path) -> None:
    network = Net().eval()
    torch.save({"state_dict": network.state_dict(), **about}, tmp_path / "a.pth")
    artifact, weights = prepare(tmp_path / "a.pth", tmp_path / "out", ("a", "b", "c"))
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_network(artifact)(x), network(x)[:, [2, 0, 1]])
    assert "another order" in weights.notes[0]


def test_classes_that_the_checkpoint_names_are_cut_out_of_its_head(tmp_path: Path) -> None:
    network = Net(5).eval()
    names = {name: i for i, name in enumerate(("oak", "elm", "Ash tree", "fir", "yew"))}
    torch.save({"state_dict": network.state_dict(), "class_to_idx": names}, tmp_path / "a.pth")
    artifact, weights = prepare(tmp_path / "a.pth", tmp_path / "out", ("ash_tree", "oak"))
    assert (weights.head, weights.needs_fit) == ("sliced", None)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load_network(artifact)(x), network(x)[:, [2, 0]])
    with pytest.raises(WeightsError, match="5 outputs"):
        prepare(tmp_path / "a.pth", tmp_path / "x", ("oak", "lime"))


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    network = Net().eval()
    torch.jit.trace(network, torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "script.pt"))
    torch.save(deepcopy(network).body, tmp_path / "module.pt")
    torch.save(network.state_dict(), tmp_path / "half.pth")
    content = (tmp_path / "half.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>Sign in</html>")
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    for name, message in {
        "script.pt": "is a TorchScript file",
        "module.pt": "holds a whole Sequential",
        "half.pth": "is truncated or damaged",
        "page.pth": "is a web page",
        "lfs.pth": "git lfs pull",
    }.items():
        with pytest.raises(WeightsError, match=message) as caught:
            read_checkpoint(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
