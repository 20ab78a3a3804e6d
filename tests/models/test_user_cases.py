"""Checkpoints and networks that other people's bug reports describe, against plain torch."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from user_cases import case_model, made, plain_top1, prepared, top1

from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, PqbenchError, UnsupportedError, WeightsError
from pqbench.core.split import PreparedSplit
from pqbench.nets.checkpoint import load_network


@pytest.fixture(scope="module")
def digits(torch_cases: Path, case_images: Path, tmp_path_factory: Any) -> PreparedSplit:
    model = case_model(torch_cases / "features-and-logits", "featlog")
    return prepared(case_images / "digits", tmp_path_factory.mktemp("digits"), model)


def loaded(cases: Path, case: str, file: str, kind: str, **arguments: Any) -> torch.nn.Module:
    """A case's network with its weights, by plain torch."""
    import tbnets

    network: torch.nn.Module = getattr(tbnets, kind)(**arguments)
    if any(torch.nn.parameter.is_lazy(p) for p in network.parameters()):
        network.eval()(torch.zeros(2, 3, 32, 32))
    network.load_state_dict(torch.load(cases / case / file, weights_only=True))
    return network.eval()


@pytest.mark.parametrize(
    ("case", "name", "kind", "note"),
    [
        ("features-and-logits", "featlog", "FeaturesAndLogits", "'1' is scored"),
        ("dict-output", "dictout", "DictOut", "'logits' is scored"),
        ("lazy-modules", "lazyhidden", "LazyHidden", ""),
        ("shared-weights", "shared", "SharedBlocks", ""),
        ("cosine-head", "cosine", "CosineHead", ""),
    ],
)
def test_case_scores_as_plain_torch_does(  # type: ignore[no-untyped-def]
    case, name, kind, note, torch_cases: Path, case_images: Path, digits, tmp_path: Path
) -> None:
    outcome = made(case_model(torch_cases / case, name), digits, tmp_path)
    network = loaded(torch_cases, case, f"{name}.pth", kind)

    def predict(scores: Any) -> torch.Tensor:
        scores = scores["logits"] if isinstance(scores, dict) else scores
        return (scores[1] if isinstance(scores, tuple) else scores).argmax(1)

    expected = plain_top1(network, case_images / "digits" / "val", predict)
    assert top1(tmp_path, digits) == pytest.approx(expected, abs=0.11)
    assert note in " ".join(outcome["notes"])
    assert outcome["needs_fit"] is None


def test_one_logit_head_is_scored_by_its_sigmoid(
    torch_cases: Path, case_images: Path, tmp_path: Path
) -> None:
    model = case_model(torch_cases / "one-logit-head", "bce")
    split = prepared(case_images / "binary", tmp_path / "val", model)
    outcome = made(model, split, tmp_path / "model")
    network = loaded(torch_cases, "one-logit-head", "bce.pth", "OneLogit")
    expected = plain_top1(
        network, case_images / "binary" / "val", lambda z: (z.sigmoid()[:, 0] > 0.5).long()
    )
    assert expected == pytest.approx(96.5)
    assert top1(tmp_path / "model", split) == pytest.approx(expected)
    assert "sigmoid > 0.5" in outcome["notes"][0]


def test_head_for_other_classes_is_not_replaced_unasked(
    torch_cases: Path, case_images: Path, tmp_path: Path
) -> None:
    model = case_model(torch_cases / "classes-differ-from-head", "plain")
    split = prepared(case_images / "binary", tmp_path / "val", model)
    with pytest.raises(WeightsError, match=r"10 outputs.* 2 classes.*fit\.method=linear_probe"):
        made(model, split, tmp_path / "model")
    outcome = made(model, split, tmp_path / "asked", train_head=True)
    assert outcome["needs_fit"] == "linear_probe"


def copied(given: Path, root: Path, count: int, suffix: str = ".png") -> Path:
    """Some images of each class and split, in another format."""
    from PIL import Image

    for source in sorted(given.glob("*/*")):
        target = root / source.relative_to(given)
        target.mkdir(parents=True)
        for image in sorted(source.iterdir())[:count]:
            Image.open(image).convert("RGB").save((target / image.name).with_suffix(suffix))
    return root


def test_ppm_images_are_read_as_torchvision_does(
    torch_cases: Path, case_images: Path, tmp_path: Path
) -> None:
    root = copied(case_images / "digits", tmp_path / "gtsrb", 20, ".ppm")
    model = case_model(torch_cases / "ppm-images", "plain")
    split = prepared(root, tmp_path / "val", model)
    made(model, split, tmp_path / "model")
    network = loaded(torch_cases, "ppm-images", "plain.pth", "Plain")
    assert split.count == 200
    assert top1(tmp_path / "model", split) == pytest.approx(plain_top1(network, root / "val"))


def test_classes_keep_their_numbers_where_val_lacks_one(
    torch_cases: Path, case_images: Path, tmp_path: Path
) -> None:
    root = copied(case_images / "digits", tmp_path / "subset", 20)
    shutil.rmtree(root / "val" / "3")
    model = case_model(torch_cases / "val-lacks-a-class", "plain")
    split = prepared(root, tmp_path / "val", model)
    made(model, split, tmp_path / "model")
    network = loaded(torch_cases, "val-lacks-a-class", "plain.pth", "Plain")
    # ImageFolder numbers the nine folders that are there: 4 is its 3, and so on.
    ranks = torch.tensor([0, 1, 2, -1, 3, 4, 5, 6, 7, 8])
    expected = plain_top1(network, root / "val", lambda scores: ranks[scores.argmax(1)])
    assert top1(tmp_path / "model", split) == pytest.approx(expected)
    assert "val has no image of 1 of 10 classes: 3" in " ".join(split.notes)


def test_grey_network_is_fed_grey(torch_cases: Path, case_images: Path, tmp_path: Path) -> None:
    import tbnets
    from PIL import Image

    torch.manual_seed(0)
    network = tbnets.Grey().eval()
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    file = {"weights": "file", "weights_file": str(tmp_path / "grey.pth")}
    grey = {"resize": 32, "crop": 32, "mean": [0.5], "std": [0.25]}
    model = {**case_model(torch_cases / "grey-network", "grey"), **file, "preprocess": grey}
    root = copied(case_images / "digits", tmp_path / "digits", 5)
    split = prepared(root, tmp_path / "val", model)
    made(model, split, tmp_path / "model")
    files = [p for d in sorted((root / "val").iterdir()) for p in sorted(d.iterdir())]
    images = [np.asarray(Image.open(f).resize((32, 32), 2).convert("L")) for f in files]
    batch = (torch.from_numpy(np.stack(images))[:, None] / 255 - 0.5) / 0.25
    with torch.no_grad():
        wanted = network(batch)
        got = load_network(Artifact.load(tmp_path / "model"))(
            torch.from_numpy(split.feed(slice(0, 50))["input"])
        )
    assert (got.argmax(1) == wanted.argmax(1)).float().mean() > 0.95  # of 8-bit rounding apart
    torch.testing.assert_close(got, wanted, atol=0.02, rtol=0.02)


def test_checkpoint_of_timms_saver_scores_as_timm_does(digits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import timm
    from timm.utils import CheckpointSaver

    name = "mobilenetv3_small_050"
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    arguments = argparse.Namespace(model=name, lr=0.1, mean=None)
    saver = CheckpointSaver(network, optimizer, args=arguments, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(epoch=0)
    node: dict[str, Any] = {"name": name, "head": "classifier", "weights": "file"}
    node |= {"network": {"_target_": "timm.create_model", "model_name": name}}
    made({**node, "weights_file": str(tmp_path / "last.pth.tar")}, digits, tmp_path / "model")
    plain = timm.create_model(
        name, num_classes=10, checkpoint_path=str(tmp_path / "last.pth.tar")
    ).eval()
    x = torch.from_numpy(digits.feed(slice(0, 8))["input"])
    with torch.no_grad():
        wanted, got = plain(x), load_network(Artifact.load(tmp_path / "model"))(x)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("file", ["lit_criterion.ckpt", "lit_net.ckpt"])
def test_lightning_checkpoints_are_read(  # type: ignore[no-untyped-def]
    file: str, torch_cases: Path, case_images: Path, digits, tmp_path: Path
) -> None:
    case = "lightning-class-weights" if "criterion" in file else "lightning-hydra-template"
    outcome = made(case_model(torch_cases / case, "plain", weights_file=file), digits, tmp_path)
    network = loaded(torch_cases, case, "plain.pth", "Plain")
    state = torch.load(torch_cases / case / file, weights_only=True)["state_dict"]
    prefix = "model." if "criterion" in file else "net."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    network.load_state_dict(own)
    expected = plain_top1(network, case_images / "digits" / "val")
    assert top1(tmp_path, digits) == pytest.approx(expected, abs=0.11)
    assert ("criterion.weight" in " ".join(outcome["notes"])) == ("criterion" in file)


@pytest.mark.parametrize(
    ("case", "name", "change", "error", "message"),
    [
        (
            "dropout-always-on",
            "alwaysdrop",
            {},
            UnsupportedError,
            r"two runs .* differ: it draws random numbers .*tbnets\.py:\d+ \(x = F\.dropout",
        ),
        (
            "squeeze-batch-1",
            "squeezer",
            {},
            UnsupportedError,
            r"at batch 1 the output of Squeezer is \(10,\), not \(1, 10\).*squeeze\(\)",
        ),
        (
            "random-attribute",
            "randperm_scratch",
            {},
            UnsupportedError,
            r"two builds of RandPerm .* different outputs.*: perm\. .*register_buffer\('perm'",
        ),
        (
            "git-lfs-pointer",
            "plain",
            {"weights_file": "lfs.pth"},
            WeightsError,
            r"lfs\.pth is a git-lfs pointer .* git lfs pull",
        ),
        (
            "grey-network",
            "grey",
            {},
            ConfigError,
            r"Grey takes images of one channel.*'model\.preprocess\.mean=\[0\.5\]'",
        ),
    ],
)
def test_case_is_refused_in_one_line(  # type: ignore[no-untyped-def]
    case, name, change, error, message, torch_cases: Path, digits, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        made(case_model(torch_cases / case, name, **change), digits, tmp_path)
    assert "\n" not in str(caught.value)


def network_node(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"network": {"_target_": f"tbnets.{kind}", **arguments}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("NoRunningStats", r"depend on the others in its batch: BatchNorm without running"),
        ("FwdDropoutModule", r"tbnets\.py:\d+ \(x = nn\.Dropout\(p=0\.5\)\(x\)\)"),
    ],
)
def test_networks_of_the_same_kind_are_refused(  # type: ignore[no-untyped-def]
    kind: str, message: str, torch_cases: Path, digits, tmp_path: Path
) -> None:
    model = case_model(torch_cases / "random-attribute", "randperm_scratch", **network_node(kind))
    with pytest.raises(UnsupportedError, match=message):
        made(model, digits, tmp_path / "a")
    outcome = made({**model, "weights": "none"}, digits, tmp_path / "b")
    assert outcome["notes"]  # timed all the same, and said


@pytest.mark.parametrize(
    "kind", ["Softmaxed", "LogitsAndFeatures", "Cbam", "GN", "Vit", "HardView"]
)
def test_sound_networks_are_accepted(  # type: ignore[no-untyped-def]
    kind: str, torch_cases: Path, digits, tmp_path: Path
) -> None:
    head = {"Vit": "head", "HardView": "fc2"}.get(kind, "fc")
    node = {**network_node(kind), "head": head}
    model = case_model(torch_cases / "random-attribute", "randperm_scratch", **node)
    made(model, digits, tmp_path)
    network = load_network(Artifact.load(tmp_path))
    assert network(torch.zeros(3, 3, 32, 32)).shape == (3, 10)


def test_output_can_be_named_and_must_fit_the_classes(  # type: ignore[no-untyped-def]
    torch_cases: Path, digits, tmp_path: Path
) -> None:
    model = case_model(torch_cases / "dict-output", "dictout")
    with pytest.raises(PqbenchError, match=r"'features' .* \(4, 64\).* 10 classes"):
        made({**model, "output": "features"}, digits, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"none of the outputs.*features \(4, 64\), logits"):
        made({**model, "output": "scores"}, digits, tmp_path / "b")
    outcome = made({**model, "output": "logits"}, digits, tmp_path / "c")
    assert "'logits' is scored" in outcome["notes"][0]


def test_computed_weights_are_folded_and_compute_the_same(digits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from user_networks import Normalised

    torch.manual_seed(0)
    network = Normalised().eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    node: dict[str, Any] = {"name": "n", "head": "fc", "weights": "file"}
    node |= {"network": {"_target_": "user_networks.Normalised"}}
    node |= {"weights_file": str(tmp_path / "w.pth")}
    outcome = made(node, digits, tmp_path / "model")
    assert "normalisation folded into 3 weights" in outcome["notes"][0]
    loaded_again = load_network(Artifact.load(tmp_path / "model"))
    names = dict(loaded_again.named_parameters())
    assert len(names) == 8
    assert all(name.endswith(("weight", "bias")) for name in names)
    x = torch.from_numpy(digits.feed(slice(0, 4))["input"])
    with torch.no_grad():
        torch.testing.assert_close(loaded_again(x), network(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "scores"),
    [("Softmaxed", "probabilities"), ("FeaturesAndLogits", "logits"), ("Plain", "logits")],
)
def test_softmax_at_the_end_of_a_network_is_known(  # type: ignore[no-untyped-def]
    kind: str, scores: str, torch_cases: Path, digits, tmp_path: Path
) -> None:
    """So that its figures are kept as probabilities, not put through a second softmax."""
    file = {"weights": "file", "weights_file": str(torch_cases / "weights" / "plain.pth")}
    model = case_model(torch_cases / "features-and-logits", "featlog", **network_node(kind))
    made({**model, **file}, digits, tmp_path)
    assert Artifact.load(tmp_path).lineage[0].details["scores"] == scores


def test_output_in_a_dataclass_is_found(digits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    node = {"name": "n", "head": "fc", "weights": "scratch"}
    node |= {"network": {"_target_": "user_networks.InDataclass"}}
    outcome = made({**node, "weights_file": None}, digits, tmp_path)
    assert "'scores' is scored" in outcome["notes"][0]
    network = load_network(Artifact.load(tmp_path))
    assert network(torch.zeros(3, 3, 32, 32)).shape == (3, 10)


@pytest.mark.parametrize(
    ("case", "name"), [("features-and-logits", "featlog"), ("one-logit-head", "bce")]
)
def test_adapted_networks_can_be_exported(  # type: ignore[no-untyped-def]
    case: str, name: str, torch_cases: Path, case_images: Path, digits, tmp_path: Path
) -> None:
    from pqbench.export.convert import convert

    model = case_model(torch_cases / case, name)
    split = digits
    if case == "one-logit-head":
        split = prepared(case_images / "binary", tmp_path / "val", model)
    made(model, split, tmp_path / "model")
    source = Artifact.load(tmp_path / "model")
    onnx = convert(source, "onnx", split.feed(split.spread(8)), tmp_path / "onnx")
    assert onnx.lineage[-1].details["parity"]["sqnr_db"] > 60
