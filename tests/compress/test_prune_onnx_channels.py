"""Channels removed from ONNX files: what stays computes the same, what fits is nearer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision
from onnx import helper, numpy_helper

from pqbench.compress.channel_repair import repair, ridge, ridge_each
from pqbench.compress.onnx_ready import pre_process
from pqbench.compress.prune_onnx_channels import PruneOnnxChannels, cut
from pqbench.core.artifact import Artifact
from pqbench.core.errors import ConfigError, UnsupportedError
from pqbench.core.split import PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.onnx_channel_rules import find_channels
from pqbench.nets.onnx_channels import choose, rounded
from pqbench.nets.onnx_parameters import count_parameters

SIDE = 64  # of the images of the fixture split
NETWORKS = (
    *("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"),
    *("densenet121", "efficientnet_b0", "googlenet", "regnet_y_400mf"),
)


@pytest.fixture
def data(split: PreparedSplit) -> StepData:
    return StepData(split, seed=0, threads=1)


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0]
    return result


def exported(network: torch.nn.Module, folder: Path, side: int = SIDE) -> onnx.ModelProto:
    """As pqbench prepares a file: batch-norm folded, shapes inferred, vectors not shared."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, side, side),),
        folder / "model.onnx",
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        dynamo=False,
    )
    pre_process(folder / "model.onnx", folder / "ready.onnx", "a test")
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / "ready.onnx"))
    onnx_constants.own_vectors(model.graph)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_cut_without_channels_that_are_zero_changes_nothing(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():  # statistics that fit, or the outputs of random weights vanish
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    model = exported(network, tmp_path)
    channels = find_channels(model)
    free = [group for group in channels.free() if channels.sizes[group] > 8]
    assert len(free) >= 10
    rng = np.random.default_rng(0)
    kept = {
        group: np.sort(rng.permutation(channels.sizes[group])[: channels.sizes[group] // 2])
        for group in free
    }
    tensors = onnx_graph.constants(model.graph)
    # A removed channel has nothing but zeros wherever it is made or scaled.
    for slot in channels.slots:
        everything = channels.places(slot.layout, {})
        gone = np.setdiff1d(everything, channels.places(slot.layout, kept))
        reads = not slot.makes and len(tensors[slot.tensor].dims) > 1
        if gone.size and not (reads and slot.axis == 1):
            value = numpy_helper.to_array(tensors[slot.tensor]).copy()
            np.moveaxis(value, slot.axis, 0)[gone] = 0
            tensors[slot.tensor].CopyFrom(numpy_helper.from_array(value, slot.tensor))
    pruned = cut(model, channels, kept)
    onnx.checker.check_model(pruned, full_check=True)
    image = rng.standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    whole = run(model, image)
    assert np.abs(whole).max() > 1e-6
    np.testing.assert_allclose(
        run(pruned, image), whole, rtol=1e-3, atol=1e-5 * np.abs(whole).max()
    )
    before, after = (count_parameters(m).parameters for m in (model, pruned))
    assert after < 0.75 * before


def artifact_of(model: onnx.ModelProto, folder: Path, split: PreparedSplit) -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    artifact = Artifact("onnx", folder, "model.onnx", split.specs(), ("logits",))
    artifact.save()
    return artifact


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    """Redundant on purpose: half of the channels of the second layer nearly repeat the others."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 24, 3, stride=2, bias=False),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 10),
    )
    with torch.no_grad():
        layer = network[2]
        layer.weight[16:] = 0.6 * layer.weight[:16] + 0.02 * torch.randn(16, 16, 3, 3)
        layer.bias[16:] = 0.6 * layer.bias[:16]
    folder = tmp_path_factory.mktemp("source")
    torch.onnx.export(
        network.eval(), (torch.zeros(1, 3, SIDE, SIDE),), folder / "net.onnx",
        input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "n"}, "logits": {0: "n"}}, dynamo=False,
    )  # fmt: skip
    return artifact_of(onnx.load(folder / "net.onnx"), folder / "artifact", split)


def test_repair_takes_most_of_the_error_of_repeated_channels_away(
    source: Artifact, data: StepData, split: PreparedSplit, tmp_path: Path
) -> None:
    results = {}
    for images in (0, 40):
        folder = tmp_path / str(images)
        folder.mkdir()
        step = PruneOnnxChannels(ratio=0.4, scope="layer", repair_images=images)
        result = step.apply(source, data, folder)
        details = result.lineage[-1].details
        assert details["parameters_after"] < 0.6 * details["parameters_before"]
        assert details["channels_kept"] < details["channels"]
        results[images] = onnx.load(result.path)
    feed = split.feed(slice(0, split.count))["input"]
    whole = run(onnx.load(source.path), feed)
    plain, fitted = (float(((run(m, feed) - whole) ** 2).mean()) for m in results.values())
    assert fitted < 0.25 * plain
    assert details["repaired_layers"] == 3
    assert 0.5 < details["repair_error_removed"] <= 1.0


def test_gradients_keep_the_channels_that_the_answer_hangs_on(
    source: Artifact, data: StepData, split: PreparedSplit, tmp_path: Path
) -> None:
    """The last reader ignores 16 of 72 channels, though their weights are the largest."""
    model = onnx.load(source.path)
    tensors = onnx_graph.constants(model.graph)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    second, third = (numpy_helper.to_array(tensors[n.input[1]]).copy() for n in convolutions[1:])
    second[:16] *= 3
    third[:, :16] = 0
    for node, value in zip(convolutions[1:], (second, third), strict=True):
        tensors[node.input[1]].CopyFrom(numpy_helper.from_array(value, node.input[1]))
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    for name in head.input[1:]:  # the data have two classes
        value = numpy_helper.to_array(tensors[name])[:2]
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    artifact = artifact_of(model, tmp_path / "given", split)
    feed = split.feed(slice(0, split.count))["input"]
    errors = {}
    for criterion in ("group_norm", "output_change", "taylor"):
        folder = tmp_path / criterion
        folder.mkdir()
        step = PruneOnnxChannels(ratio=16 / 72, criterion=criterion, most=0.6, repair_images=0)
        pruned = onnx.load(step.apply(artifact, data, folder).path)
        errors[criterion] = float(((run(pruned, feed) - run(model, feed)) ** 2).mean())
    assert max(errors["output_change"], errors["taylor"]) < 1e-9 < errors["group_norm"]


def test_pruned_file_loads_without_the_whole_one(
    source: Artifact, data: StepData, tmp_path: Path
) -> None:
    result = PruneOnnxChannels(ratio=0.3, repair_images=8).apply(source, data, tmp_path)
    model = onnx.load(result.path)
    onnx.checker.check_model(model, full_check=True)
    shapes = [t.dims for t in model.graph.initializer if len(t.dims) == 4]
    assert all(dims[0] % 8 == 0 for dims in shapes)
    assert result.path.stat().st_size < source.path.stat().st_size


def test_file_without_removable_channels_is_refused(
    data: StepData, split: PreparedSplit, tmp_path: Path
) -> None:
    """One layer makes the classes: they all stay."""
    weight = numpy_helper.from_array(np.ones((3 * SIDE * SIDE, 12), np.float32), "w")
    info, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [node("Flatten", ["input"], ["flat"]), node("MatMul", ["flat", "w"], ["logits"])],
        "net",
        [info("input", onnx.TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [info("logits", onnx.TensorProto.FLOAT, ["n", 12])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = artifact_of(model, tmp_path / "given", split)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(UnsupportedError, match="found no channel that can be removed"):
        PruneOnnxChannels().apply(artifact, data, work)


def test_weights_that_two_layers_share_keep_their_channels(tmp_path: Path) -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(3, 16, 3)
            self.shared = torch.nn.Conv2d(16, 16, 3)
            self.last = torch.nn.Conv2d(16, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.shared(self.shared(self.first(x))))

    channels = find_channels(exported(Twice(), tmp_path))
    assert channels.free() == []


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ratio", 1.0, "ratio must lie between 0 and 1"),
        ("most", 0.0, "most must lie between 0 and 1"),
        ("scope", "all", "scope 'all' is unknown"),
        ("criterion", "random", "criterion 'random' is unknown"),
        ("round_to", 0, "round_to must be at least 1"),
    ],
)
def test_setting_that_is_not_possible_is_refused(setting: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneOnnxChannels(**{setting: value})  # type: ignore[arg-type]


def test_rounded_keeps_a_multiple_and_at_least_one() -> None:
    assert [rounded(64, wanted, 8) for wanted in (64, 60.1, 27, 3)] == [64, 64, 24, 8]
    assert rounded(6, 2, 8) == 6


def test_choose_removes_the_least_of_all_or_of_each() -> None:
    scores = [np.array([1.0, 0.1, 0.9, 0.2]), np.array([0.8, 0.7, 0.6, 0.9])]
    together = choose(scores, 0.25, 1, 0.75, together=True)
    assert [list(stay) for stay in together] == [[0, 2], [0, 1, 2, 3]]
    each = choose(scores, 0.25, 1, 0.75, together=False)
    assert [list(stay) for stay in each] == [[0, 2, 3], [0, 1, 3]]


def test_ridge_finds_a_linear_error_and_leaves_noise_alone() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 12))
    held = np.arange(400) % 4 == 0
    exact = rng.standard_normal((12, 3))
    change, shift, gain = ridge(x, x @ exact + 0.5, held)
    np.testing.assert_allclose(change, exact, atol=0.02)
    np.testing.assert_allclose(shift, 0.5, atol=0.02)
    assert gain > 0.999
    noise = rng.standard_normal((400, 3))
    change, shift, gain = ridge(x, noise - noise[~held].mean(axis=0), held)
    assert np.abs(change).max() < 0.1
    assert gain < 0.05


def test_ridge_of_each_output_finds_what_each_lacks_of_its_own_features() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 70, 9))
    held = np.arange(400) % 4 == 0
    exact = rng.standard_normal((9, 70))
    errors = np.einsum("nck,kc->nc", x, exact) + 0.5
    errors[:, 69] = rng.standard_normal(400)  # nothing to be learnt
    change, shift, gain = ridge_each(x.reshape(400, -1), errors, held)
    np.testing.assert_allclose(change[:, :69], exact[:, :69], atol=0.02)
    np.testing.assert_allclose(shift[:69], 0.5, atol=0.02)
    assert np.abs(change[:, 69]).max() < 0.1
    assert 0.97 < gain < 1.0
    one, bias, part = ridge(x[:, 3], errors[:, 3:4], held)
    np.testing.assert_allclose(change[:, 3], one[:, 0], atol=1e-3)
    np.testing.assert_allclose(shift[3], bias[0], atol=1e-3)
    assert part > 0.999


def test_repair_fits_depthwise_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 1),
        torch.nn.Conv2d(32, 32, 3, groups=32),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 4),
    )
    model = exported(network, tmp_path, side=24)
    channels = find_channels(model)
    kept = {group: np.arange(0, 32, 2) for group in channels.free()}
    pruned = cut(model, channels, kept)
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 24, 24), np.float32)} for _ in range(24)]
    wide = next(n for n in pruned.graph.node if n.output[0] in set(channels.depthwise))
    before = numpy_helper.to_array(onnx_graph.constants(pruned.graph)[wide.input[1]]).copy()
    assert repair(model, pruned, channels, kept, feeds, 1)["repaired_layers"] == 3
    onnx.checker.check_model(pruned, full_check=True)
    after = numpy_helper.to_array(onnx_graph.constants(pruned.graph)[wide.input[1]])
    assert after.shape == before.shape == (16, 1, 3, 3)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize("axes", [1, 3])
def test_repair_fits_convolutions_of_other_than_two_axes(axes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv1d if axes == 1 else torch.nn.Conv3d
    shape = (3, 144) if axes == 1 else (3, 4, 6, 6)
    network = torch.nn.Sequential(
        torch.nn.Flatten(2) if axes == 1 else torch.nn.Unflatten(2, (4, 3)),
        conv(3, 32, 3, stride=2, padding=1),
        torch.nn.ReLU(),
        conv(32, 24, 3, padding=2, dilation=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool1d(1) if axes == 1 else torch.nn.AdaptiveAvgPool3d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(24, 4),
    )
    assert network[0](torch.zeros(1, 3, 12, 12)).shape[1] == shape[0]
    model = exported(network, tmp_path, side=12)
    channels = find_channels(model)
    kept = {g: np.arange(0, channels.sizes[g], 2) for g in channels.free()}
    assert kept
    pruned = cut(model, channels, kept)
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.standard_normal((1, 3, 12, 12), np.float32)} for _ in range(40)]
    images = rng.standard_normal((20, 3, 12, 12)).astype(np.float32)
    whole, before = run(model, images), run(pruned, images)
    assert repair(model, pruned, channels, kept, feeds, 1)["repaired_layers"] >= 2
    onnx.checker.check_model(pruned, full_check=True)
    assert ((run(pruned, images) - whole) ** 2).mean() < 0.5 * ((before - whole) ** 2).mean()


def test_repair_gives_products_without_a_bias_one() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w1": (12, 32), "w2": (32, 16), "w3": (16, 5)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node, info = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["b", "w2"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("MatMul", ["d", "w3"], ["y"]),
        ],
        "net",
        [info("x", onnx.TensorProto.FLOAT, ["n", 12])],
        [info("y", onnx.TensorProto.FLOAT, ["n", 5])],
        weights,
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(plain)
    channels = find_channels(model)
    first, second = channels.free()
    kept = {first: np.arange(24), second: np.arange(12)}
    pruned = cut(model, channels, kept)
    held = rng.standard_normal((200, 12)).astype(np.float32)
    whole, before = run(model, held), run(pruned, held)
    feeds = [{"x": rng.standard_normal((1, 12)).astype(np.float32)} for _ in range(200)]
    assert repair(model, pruned, channels, kept, feeds, 1)["repaired_layers"] == 2
    onnx.checker.check_model(pruned, full_check=True)
    after = run(pruned, held)
    assert ((after - whole) ** 2).mean() < 0.3 * ((before - whole) ** 2).mean()
