"""Structured pruning of real architectures."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_models import BUILDERS, make_torch
from torch import nn

from pqbench.compress.careful import round_kept
from pqbench.compress.criteria import CRITERIA, gather_gradients, importance, task_loss
from pqbench.compress.prune import Prune
from pqbench.compress.prune_unstructured import PruneUnstructured
from pqbench.compress.runtime_latency import RUNTIMES, latency_s
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets.checkpoint import build_network, load_network, save_network
from pqbench.nets.layers import (
    feed_tensors,
    flush_subnormals,
    output_layers,
    parameter_count,
    recalibrate_batch_norm,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    return make_torch("mobilenet_v3_small", tmp_path_factory.mktemp("small"), split)


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_prune_shrinks_the_network_and_reloads_exactly(
    name: str, tmp_path: Path, split: PreparedSplit, data: StepData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pqbench.compress.prune as module

    source = make_torch(name, tmp_path / "source", split)
    kept: list[nn.Module] = []
    save = module.save_like
    monkeypatch.setattr(
        module, "save_like", lambda network, *rest: kept.append(network) or save(network, *rest)
    )
    pruned = Prune(recalibrate_bn=32).apply(source, data, tmp_path / "pruned")

    reloaded = load_network(Artifact.load(pruned.folder))
    (x,) = feed_tensors(split, ["input"], slice(0, 4))
    with torch.no_grad():
        # Copied, so that both lie in memory alike: kernels round by alignment.
        expected, got = deepcopy(kept[0])(x), deepcopy(reloaded)(x)
        assert expected.shape == load_network(source)(x).shape
    assert torch.equal(expected, got)
    details = pruned.lineage[-1].details
    assert pruned.lineage[-1].action == "prune"
    assert details["parameters_after"] == parameter_count(reloaded)
    assert 0.3 < details["parameter_reduction"] < 0.7
    # Kept channels are rounded down to multiples of 8: of ResNet-8, which has few, more go.
    assert 0.2 < details["channel_reduction"] < (0.45 if name == "resnet8" else 0.4)
    assert details["batch_norm_images"] == 32
    (head,) = details["never_pruned"]
    before, after = details["layers"][head]
    assert before == after
    assert all(b % 8 or not a % 8 for b, a in details["layers"].values() if a != b and a >= 8)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_prune_works_by_every_criterion(
    criterion: str, tmp_path: Path, small: Artifact, data: StepData
) -> None:
    step = Prune(
        criterion=criterion,
        global_pruning=criterion == "lamp",
        gradient_images=16,
        recalibrate_bn=0,
    )
    details = step.apply(small, data, tmp_path).lineage[-1].details
    assert details["parameter_reduction"] > 0.2
    assert details["batch_norm_images"] == 0
    assert details["gradient_images"] == (16 if CRITERIA[criterion] else 0)


def test_prune_is_reproducible(tmp_path: Path, small: Artifact, data: StepData) -> None:
    step = Prune(criterion="random", recalibrate_bn=0)
    hashes = {step.apply(small, data, tmp_path / n).content_hash() for n in ("a", "b")}
    assert len(hashes) == 1
    other = step.apply(small, StepData(data.train, seed=1, threads=1), tmp_path / "c")
    assert other.content_hash() not in hashes


def test_prune_leaves_ignored_layers_alone(tmp_path: Path, small: Artifact, data: StepData) -> None:
    step = Prune(ignored_layers=["features.12"], recalibrate_bn=0)
    layers = step.apply(small, data, tmp_path).lineage[-1].details["layers"]
    assert layers["features.12.0"][0] == layers["features.12.0"][1]
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        Prune(ignored_layers=["nowhere"]).apply(small, data, tmp_path)


def test_prune_that_removes_nothing_is_refused(
    tmp_path: Path, small: Artifact, data: StepData
) -> None:
    with pytest.raises(UnsupportedError, match=r"'fpgm' at ratio 0\.3 removed nothing"):
        Prune(criterion="fpgm", ignored_layers=["features", "classifier"]).apply(
            small, data, tmp_path
        )


def test_prune_of_a_foreign_input_is_refused(
    tmp_path: Path, small: Artifact, data: StepData
) -> None:
    from dataclasses import replace

    renamed = replace(small, inputs=(replace(small.inputs[0], name="tokens"),))
    with pytest.raises(UnsupportedError, match="input tokens is not in the prepared data"):
        Prune().apply(renamed, data, tmp_path)


def test_gradients_of_hessian_are_mean_squares_over_all_samples(split: PreparedSplit) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)).eval()
    indices = np.arange(6)
    (x,) = feed_tensors(split, ["input"], indices)
    y = torch.from_numpy(split.labels()[indices])
    each = []
    for i in range(6):
        network.zero_grad()
        nn.functional.cross_entropy(network(x[i : i + 1]), y[i : i + 1]).backward()
        each.append(network[1].weight.grad.clone())
    assert gather_gradients(network, split, ["input"], indices, "hessian") == 6
    squares = torch.stack(each).pow(2).mean(0)
    assert torch.allclose(network[1].weight.grad, squares, rtol=1e-4)
    assert gather_gradients(network, split, ["input"], indices, "fpgm") == 0


def test_taylor_is_what_each_samples_loss_changes_by_without_a_channel(
    split: PreparedSplit,
) -> None:
    """Each channel of a convolution has a gate behind it, which is one, here as in the paper."""
    import torch_pruning as tp

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    indices = np.arange(8)
    (x,) = feed_tensors(split, ["input"], indices)
    y = torch.from_numpy(split.labels()[indices])
    gates = torch.ones(8, 6, requires_grad=True)  # a sample's own
    loss = nn.functional.cross_entropy(
        network[3:](network[:3](x) * gates[:, :, None, None]), y, reduction="sum"
    )
    (changes,) = torch.autograd.grad(loss, gates)
    expected = changes.pow(2).mean(0).sqrt()

    assert gather_gradients(network, split, ["input"], indices, "taylor") == 8
    graph = tp.DependencyGraph().build_dependency(network, x[:1])
    group = graph.get_pruning_group(network[0], tp.prune_conv_out_channels, list(range(6)))
    found = importance("taylor")(group)
    torch.testing.assert_close(found / found.mean(), expected / expected.mean(), rtol=1e-4, atol=0)
    cancelled = changes.mean(0).abs()  # the mean gradient says another thing
    assert not torch.allclose(cancelled / cancelled.mean(), expected / expected.mean(), rtol=0.3)


def test_output_change_is_the_length_of_the_change_of_all_outputs(split: PreparedSplit) -> None:
    """Of one output there is no choice of signs: the estimate is the change itself."""
    import torch_pruning as tp

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
    ).eval()  # fmt: skip
    indices = np.arange(8)
    (x,) = feed_tensors(split, ["input"], indices)
    gates = torch.ones(8, 6, requires_grad=True)
    out = network[2:](network[:2](x) * gates[:, :, None, None])
    (changes,) = torch.autograd.grad(out.sum(), gates)
    assert gather_gradients(network, split, ["input"], indices, "output_change") == 8
    graph = tp.DependencyGraph().build_dependency(network, x[:1])
    group = graph.get_pruning_group(network[0], tp.prune_conv_out_channels, list(range(6)))
    found = importance("output_change")(group)
    expected = changes.pow(2).mean(0).sqrt()
    torch.testing.assert_close(found, expected / expected.mean().sqrt(), rtol=1e-4, atol=0)


def test_output_change_of_a_flattened_channel_is_that_of_all_its_places(
    split: PreparedSplit,
) -> None:
    import torch_pruning as tp

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8 * 8, 2)
    ).eval()
    indices = np.arange(4)
    (x,) = feed_tensors(split, ["input"], indices)
    assert gather_gradients(network, split, ["input"], indices, "output_change") == 4
    graph = tp.DependencyGraph().build_dependency(network, x[:1])
    group = graph.get_pruning_group(network[0], tp.prune_conv_out_channels, list(range(6)))
    found = importance("output_change")(group)
    read = network[3].weight
    places = (read * read.grad).detach().abs().sum(0).reshape(6, 64).sum(1)
    torch.testing.assert_close(found, places / places.mean().sqrt(), rtol=1e-4, atol=0)


def test_output_change_of_a_layer_that_changes_nothing_is_zero(split: PreparedSplit) -> None:
    import torch_pruning as tp

    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6 * 62 * 62, 2)).eval()
    nn.init.zeros_(network[2].weight)
    gather_gradients(network, split, ["input"], np.arange(2), "output_change")
    (x,) = feed_tensors(split, ["input"], np.arange(1))
    graph = tp.DependencyGraph().build_dependency(network, x)
    group = graph.get_pruning_group(network[0], tp.prune_conv_out_channels, list(range(6)))
    assert importance("output_change")(group).tolist() == [0.0] * 6


def test_task_loss_takes_classes_and_masks_and_refuses_others() -> None:
    scores = torch.randn(2, 3, 4, 4)
    masks = torch.zeros(2, 4, 4, dtype=torch.int64)
    expected = nn.functional.cross_entropy(scores, masks)
    assert torch.isclose(task_loss({"out": scores}, masks), expected)
    masks[:, 0] = 255  # void
    expected = nn.functional.cross_entropy(scores[:, :, 1:], masks[:, 1:])
    assert torch.isclose(task_loss({"out": scores}, masks), expected)
    with pytest.raises(UnsupportedError, match="one class per sample or pixel"):
        task_loss(torch.randn(2, 3), torch.randn(2, 5))


@pytest.mark.parametrize("criterion", ["activation", "obdc"])
def test_prune_refuses_criteria_that_do_nothing(criterion: str) -> None:
    with pytest.raises(ConfigError, match=r"Torch-Pruning 1\.6") as caught:
        Prune(criterion=criterion)
    assert "choose one of magnitude_l2" in str(caught.value)


@pytest.mark.parametrize("target", ["macs", "latency"])
def test_prune_reaches_its_target(
    target: str,
    tmp_path: Path,
    small: Artifact,
    data: StepData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pqbench.compress.prune_target as module

    asked: set[tuple[str, int]] = set()

    def clock(network: nn.Module, example: object, runtime: str, threads: int) -> float:
        asked.add((runtime, threads))
        return float(parameter_count(network))

    # A stand-in for the clock, which a test must not depend on.
    monkeypatch.setattr(module, "latency_s", clock)
    step = Prune(pruning_ratio=0.5, target=target, runtime="openvino", recalibrate_bn=0)
    details = step.apply(small, data, tmp_path).lineage[-1].details
    assert 0.05 < details["channel_ratio"] < 0.8
    achieved = "macs_reduction" if target == "macs" else "parameter_reduction"
    assert 0.5 <= details[achieved] < 0.62
    assert asked == ({("openvino", 1)} if target == "latency" else set())
    if target == "latency":  # in this stand-in a parameter takes a second
        assert details["latency_before_ms"] == 1e3 * details["parameters_before"]
        assert details["latency_after_ms"] == 1e3 * details["parameters_after"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_latency_is_that_of_the_runtime_named(runtime: str) -> None:
    """Sixteen times the work takes longer, on each of them; and only there is anything run."""
    torch.manual_seed(0)
    thin, wide = (nn.Sequential(nn.Conv2d(3, w, 3), nn.Conv2d(w, w, 3)).eval() for w in (16, 256))
    example = (torch.zeros(2, 3, 40, 40),)
    fast, slow = (latency_s(network, example, runtime, 1) for network in (thin, wide))
    assert 0 < fast < slow
    calls: list[int] = []
    thin.register_forward_hook(lambda *_: calls.append(1))
    latency_s(thin, example, runtime, 1)
    assert (len(calls) > 20) == (runtime == "torch")


def test_prune_refuses_an_unknown_runtime() -> None:
    with pytest.raises(ConfigError, match="pruning runtime 'abacus' is unknown"):
        Prune(runtime="abacus")


def test_prune_refuses_a_target_out_of_reach(
    tmp_path: Path, small: Artifact, data: StepData
) -> None:
    step = Prune(pruning_ratio=0.9, target="macs", max_layer_ratio=0.2)
    with pytest.raises(UnsupportedError, match="removes 90% of the macs: the most is"):
        step.apply(small, data, tmp_path)


def test_round_kept_leaves_a_multiple_and_never_none() -> None:
    assert round_kept(25, 32, 8) == 24  # 7 should stay: 8 do, not 0
    assert round_kept(10, 32, 8) == 16
    assert round_kept(3, 6, 8) == 0  # fewer than the multiple: all stay
    assert round_kept(5, 9, 1) == 5
    assert round_kept(31, 32, 8, most=0.6) == 16  # 13 must stay
    assert round_kept(40, 40, 8, most=0.8) == 32  # 8 must stay


class Skewed(nn.Module):
    """Nearly all channels of its first layer are next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 2)
        with torch.no_grad():
            self.first.weight[:28] *= 1e-3
            self.second.weight[:, :28] *= 1e-3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize(("round_to", "stay"), [(None, 13), (1, 13), (8, 16)])
def test_prune_holds_the_layer_limit_of_a_global_ranking(
    round_to: int | None, stay: int, tmp_path: Path, split: PreparedSplit, data: StepData
) -> None:
    """All 28 rank below the limit; at most 60 % of 32 may go."""
    builder = {"_target_": f"{__name__}.Skewed"}
    torch.manual_seed(0)
    network = Skewed().eval()
    source = save_network(network, builder, tmp_path / "a", split.specs(), ("logits",), ())
    step = Prune(
        pruning_ratio=0.5,
        global_pruning=True,
        max_layer_ratio=0.6,
        round_to=round_to,
        recalibrate_bn=0,
    )
    layers = step.apply(source, data, tmp_path / "pruned").lineage[-1].details["layers"]
    assert layers["first"] == [32, stay]


def test_prune_of_more_channels_leaves_less(tmp_path: Path, split: PreparedSplit) -> None:
    """Thin layers shrink to one multiple of round_to; Torch-Pruning's rounding left them whole."""
    builder = {"_target_": "pqbench.models.cnn.Cnn", "num_classes": 2}
    network = build_network(builder).eval()
    source = save_network(network, builder, tmp_path / "a", split.specs(), ("logits",), ())
    data = StepData(split, seed=0, threads=1)
    step = Prune(pruning_ratio=0.85, target="macs", recalibrate_bn=0)
    details = step.apply(source, data, tmp_path / "pruned").lineage[-1].details
    assert 0.85 <= details["macs_reduction"] < 0.97
    assert all(after < before for before, after in details["layers"].values() if before > 10)


def test_prune_takes_ratios_layer_by_layer(tmp_path: Path, small: Artifact, data: StepData) -> None:
    ratios = {"features.12": 0.0, "classifier.0": 0.75}
    step = Prune(layer_ratios=ratios, recalibrate_bn=0)
    layers = step.apply(small, data, tmp_path).lineage[-1].details["layers"]
    assert layers["features.12.0"] == [576, 576]
    assert layers["classifier.0"] == [1024, 256]
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        Prune(layer_ratios={"nowhere": 0.5}).apply(small, data, tmp_path)


class Recurrent(nn.Module):
    """A CNN whose rows a two-layer LSTM reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.lstm = nn.LSTM(16 * 8, 32, num_layers=2, batch_first=True)
        self.hidden = nn.Linear(32, 64)
        self.head = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).permute(0, 2, 1, 3).flatten(2)
        x, _ = self.lstm(x)
        return self.head(self.hidden(x[:, -1]).relu())


@pytest.fixture
def recurrent(tmp_path: Path, split: PreparedSplit) -> Artifact:
    builder = {"_target_": f"{__name__}.Recurrent"}
    torch.manual_seed(0)
    return save_network(
        Recurrent().eval(), builder, tmp_path / "lstm", split.specs(), ("logits",), ()
    )


def test_prune_refuses_a_recurrent_layer_and_names_what_works(
    tmp_path: Path, recurrent: Artifact, data: StepData
) -> None:
    with pytest.raises(UnsupportedError, match="cannot prune the LSTM 'lstm'") as caught:
        Prune().apply(recurrent, data, tmp_path)
    assert "ignored_layers=[lstm]" in caught.value.hint
    assert "prune_unstructured" in caught.value.hint
    layers = Prune(ignored_layers=["lstm"]).apply(recurrent, data, tmp_path).lineage[-1].details
    assert layers["layers"]["hidden"] == [64, 40]
    details = PruneUnstructured(sparsity=0.6).apply(recurrent, data, tmp_path).lineage[-1].details
    assert details["layers"]["lstm.weight_hh_l1"] > 0.1


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.main = nn.Conv2d(8, 5, 1)
        self.side = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.body(x)
        return {"main": self.main(x), "side": self.side(x.mean((2, 3)))}


def test_output_layers_finds_the_layer_of_each_output() -> None:
    found = output_layers(TwoHeads().eval(), (torch.zeros(2, 3, 8, 8),))
    assert list(found) == ["main", "side"]


def test_recalibration_measures_what_torch_measures(split: PreparedSplit) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    theirs = nn.Sequential(*ours)
    indices = np.arange(40)
    assert recalibrate_batch_norm(ours, split, ["input"], indices, batch_size=16) == 32
    mean = ours[1].running_mean.clone()
    batches = [feed_tensors(split, ["input"], indices[i : i + 16])[0] for i in (0, 16)]
    torch.optim.swa_utils.update_bn(batches, theirs)
    assert torch.allclose(mean, theirs[1].running_mean, atol=1e-6)
    assert not ours.training
    assert ours[1].momentum == 0.1


def test_flush_subnormals_zeroes_only_what_is_no_normal_number() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-40, -1e-39], [1e-37, 0.0]]))
    assert flush_subnormals(layer) == 2
    assert layer.weight[0].tolist() == [0.0, 0.0]
    assert layer.weight[1, 0] > 0
