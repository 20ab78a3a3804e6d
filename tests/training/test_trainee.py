"""ONNX files trained as the graphs that they are: file and module agree before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torchvision
from onnx import helper, numpy_helper
from prepared_images import by_brightness, elpv_split
from torch import nn

from pqbench.compress.prune_onnx_channels import PruneOnnxChannels
from pqbench.core.artifact import Artifact, LineageEntry
from pqbench.core.errors import ParityError, UnsupportedError
from pqbench.core.parity import sqnr_db
from pqbench.core.split import Form, PreparedSplit
from pqbench.core.step import StepData
from pqbench.nets import onnx_constants, onnx_graph
from pqbench.nets.onnx_trainable import OnnxModule, learnt_names
from pqbench.training import trainee
from pqbench.training.finetune import Finetune
from pqbench.training.trainee import check_side, load_teacher, load_trainee

SIDE = 48  # of the images of the fixture split
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
FLOAT_DB = 90.0


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    result: np.ndarray = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return result


def in_torch(module: OnnxModule, *inputs: np.ndarray) -> np.ndarray:
    module.as_file = True
    with torch.no_grad():
        result: np.ndarray = module.eval()(*(torch.from_numpy(x) for x in inputs)).numpy()
    module.as_file = False
    return result


def exported(network: nn.Module, folder: Path, fold: bool = True, **options: Any) -> Path:
    """A file as users have them; without ``fold`` its BatchNorm nodes stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    keep = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        network.eval(), (torch.zeros(1, 3, SIDE, SIDE),), path,
        input_names=["input"], output_names=["logits"],
        training=torch.onnx.TrainingMode.EVAL if fold else keep, dynamo=False,
        **{"dynamic_axes": {"input": {0: "n"}, "logits": {0: "n"}}, **options},
    )  # fmt: skip
    return path


def artifact_of(
    path: Path, split: PreparedSplit, batch: int | None = None, **details: Any
) -> Artifact:
    specs = tuple(replace(spec, shape=(batch, *spec.shape[1:])) for spec in split.specs())
    entry = LineageEntry("source", 0.0, details=details)
    artifact = Artifact("onnx", path.parent, path.name, specs, ("logits",), (entry,))
    artifact.save()
    return artifact


def settled(network: nn.Module) -> nn.Module:
    """BatchNorm's statistics fit the random weights, or outputs vanish."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    torch.manual_seed(0)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, SIDE, SIDE))
    network.eval()
    return network


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=2, **options)
    return settled(network)


class Small(nn.Module):
    """A residual addition, a gate, a depthwise layer and hard-swish, in one second."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16))
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16))
        self.gate = nn.Conv2d(16, 16, 1)
        self.back = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.last = nn.Conv2d(16, 24, 3, 2)
        self.head = nn.Linear(24, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.first(x))
        y = nn.functional.hardswish(self.wide(x))
        y = y * nn.functional.hardsigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        x = nn.functional.relu(self.last(x + self.back(y)))
        result: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return result


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, split: PreparedSplit) -> Artifact:
    torch.manual_seed(0)
    return artifact_of(exported(settled(Small()), tmp_path_factory.mktemp("small")), split)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"),
        *("densenet121", "efficientnet_b0", "googlenet", "regnet_y_400mf"),
    ],
)
def test_module_computes_what_the_file_computes(name: str, fold: bool, tmp_path: Path) -> None:
    model = onnx.load(exported(built(name), tmp_path, fold))
    onnx_constants.own_vectors(model.graph)
    has_norms = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert has_norms == (not fold and name != "squeezenet1_1") or name == "densenet121"
    image = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    module = OnnxModule(model)
    assert sqnr_db(run(model, image), in_torch(module, image)) > FLOAT_DB
    floats = [t for t in onnx_graph.constants(model.graph).values() if onnx_graph.is_float(t)]
    held = sum(onnx_graph.numbers(t) for t in floats if t.dims and onnx_graph.numbers(t) > 1)
    assert sum(p.numel() for p in (*module.parameters(), *module.buffers())) >= held


INPUT = ("x", (2, 6, 9, 11))
OPERATORS: list[tuple[str, dict[str, Any], list[np.ndarray | None]]] = [
    ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [np.ones((4, 6, 3, 3))]),
    ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [np.ones((4, 6, 3, 2))]),
    ("Conv", {"pads": [0, 1, 2, 1], "dilations": [2, 1], "group": 2}, [np.ones((4, 3, 3, 3))]),
    ("Conv", {"pads": [1, 1, 1, 1]}, [np.ones((4, 6, 3, 3)), np.arange(4.0)]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1}, []),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, []),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, []),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1]}, []),
    (
        "AveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 0, 1, 0], "count_include_pad": 1},
        [],
    ),
    ("GlobalAveragePool", {}, []),
    ("GlobalMaxPool", {}, []),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}, []),
    ("ReduceSum", {"keepdims": 0}, [np.array([-1, 1])]),
    ("ReduceMax", {"axes": [-1]}, []),
    ("Clip", {}, [np.array(-0.5), np.array(0.25)]),
    ("Clip", {}, [None, np.array(0.25)]),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, []),
    ("HardSwish", {}, []),
    ("LeakyRelu", {"alpha": 0.2}, []),
    ("PRelu", {}, [np.full((6, 1, 1), 0.3)]),
    ("Elu", {}, []),
    ("Softmax", {"axis": 1}, []),
    ("LogSoftmax", {"axis": 1}, []),
    ("LRN", {"size": 3, "alpha": 0.5, "beta": 0.7, "bias": 2.0}, []),
    ("LayerNormalization", {"axis": -1}, [np.arange(11.0), np.ones(11)]),
    ("InstanceNormalization", {}, [np.arange(6.0), np.ones(6)]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, []),
    ("Transpose", {}, []),
    ("Flatten", {"axis": 2}, []),
    ("Reshape", {}, [np.array([0, 3, -1, 11])]),
    ("Squeeze", {}, [np.array([0])]),
    ("Unsqueeze", {}, [np.array([0, -1])]),
    ("Gather", {"axis": 1}, [np.array([3, -1, 0])]),
    ("Gather", {"axis": 2}, [np.array(1)]),
    ("Slice", {}, [np.array([1, -4]), np.array([100, -1]), np.array([1, 3]), np.array([2, 1])]),
    ("Slice", {}, [np.array([-1, 7]), np.array([-100, 1]), np.array([1, 3]), np.array([-2, -1])]),
    ("Pad", {}, [np.array([0, 0, 1, 2, 0, 0, 0, 1]), np.array(0.5)]),
    ("Pad", {"mode": "reflect"}, [np.array([0, 0, 1, 2, 0, 0, 0, 1])]),
    ("Pad", {"mode": "edge"}, [np.array([0, 0, 1, 2, 0, 0, 0, 1])]),
    ("Concat", {"axis": 1}, [np.ones((2, 1, 9, 11))]),
    ("Expand", {}, [np.array([2, 1, 1, 1, 1])]),
    ("MatMul", {}, [np.arange(22.0).reshape(11, 2)]),
    ("Div", {}, [np.array(3.0)]),
    ("Pow", {}, [np.array(2.0)]),
    ("Max", {}, [np.zeros((6, 1, 1))]),
    ("Gelu", {}, []),
    ("Erf", {}, []),
    ("Softplus", {}, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "attributes", "others"),
    OPERATORS,
    ids=[f"{k}{n}" for n, (k, *_) in enumerate(OPERATORS)],
)
def test_operator_computes_what_onnx_runtime_computes(
    kind: str, attributes: dict[str, Any], others: Sequence[np.ndarray | None]
) -> None:
    rng = np.random.default_rng(0)
    shape = (1, 6, 9, 11) if kind == "Squeeze" else INPUT[1]
    x = rng.standard_normal(shape).astype(np.float32)
    names, tensors = [], []
    for place, value in enumerate(others):
        names.append("" if value is None else f"c{place}")
        if value is not None:
            array = value if value.dtype == np.int64 else value.astype(np.float32)
            if kind == "Conv":
                array = rng.standard_normal(array.shape).astype(np.float32)
            tensors.append(numpy_helper.from_array(array, f"c{place}"))
    opset = 17 if kind in ("ReduceMean", "ReduceMax") else 20
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    exact, got = run(model, x), in_torch(OnnxModule(model), x)
    assert exact.shape == got.shape
    assert sqnr_db(exact, got) > FLOAT_DB


def test_unknown_operator_is_refused_by_name(tmp_path: Path, split: PreparedSplit) -> None:
    node, info = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            node("Flatten", ["input"], ["flat"]),
            node("Det", ["m"], ["d"]),
            node("Add", ["flat", "d"], ["logits"]),
        ],
        "net",
        [info("input", FLOAT, ["n", 3, SIDE, SIDE])],
        [info("logits", FLOAT, ["n", None])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "m")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(UnsupportedError, match="no rule for its operator Det in PyTorch"):
        load_trainee(artifact_of(tmp_path / "net.onnx", split), split, 1)


def test_norms_of_the_file_are_trained_and_written_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = onnx.load(exported(settled(Small()), tmp_path, fold=False))
    onnx_constants.own_vectors(model.graph)
    module = OnnxModule(model)
    assert len(module.norms) == 3
    image = torch.randn(8, 3, SIDE, SIDE)
    module.train()
    module(image + 1)  # statistics move
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x = image.numpy()
    file = module.written(model)
    assert sqnr_db(in_torch(module, x), run(file, x)) > FLOAT_DB
    assert sqnr_db(run(model, x), run(file, x)) < 30


def test_numbers_of_activations_are_not_learnt(tmp_path: Path) -> None:
    model = onnx.load(exported(Small(), tmp_path, opset_version=13))  # hard-swish in parts
    module = OnnxModule(model)
    assert len(module.names) == len(learnt_names(model.graph)) > 8
    assert min(weight.numel() for weight in module.weights) > 1


@pytest.mark.parametrize("teacher_weight", [0.0, 0.7])
def test_finetune_trains_a_file_and_file_and_module_agree(
    teacher_weight: float, small: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1, teacher=small)
    step = Finetune(epochs=2, batch_size=30, teacher_weight=teacher_weight)
    result = step.apply(small, data, tmp_path)
    entry = result.lineage[-1]
    assert entry.action == ("distill" if teacher_weight else "finetune")
    assert entry.details["steps"] == 8
    assert entry.details["given_sqnr_db"] > FLOAT_DB
    assert entry.details["file_sqnr_db"] > FLOAT_DB
    given, trained = onnx.load(small.path), onnx.load(result.path)
    onnx.checker.check_model(trained, full_check=True)
    assert list(given.graph.node) == list(trained.graph.node)
    image = split.feed(slice(0, 8))["input"]
    assert 0 < sqnr_db(run(given, image), run(trained, image)) < 60


def test_finetune_learns_from_a_file(small: Artifact, split: PreparedSplit, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("split", "work")]
    for folder in folders:
        folder.mkdir()
    data = StepData(by_brightness(split, folders[0]), seed=0, threads=1)
    step = Finetune(epochs=8, batch_size=16, learning_rate=0.01)
    loss = step.apply(small, data, folders[1]).lineage[-1].details["loss"]
    assert loss[-1] < 0.7 * loss[0]


def test_pruned_file_follows_the_whole_one(
    small: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    data = StepData(split, seed=0, threads=1, teacher=small)
    folders = [tmp_path / name for name in ("pruned", "trained")]
    for folder in folders:
        folder.mkdir()
    prune = PruneOnnxChannels(ratio=0.4, round_to=4, repair_images=0)
    pruned = prune.apply(small, data, folders[0])
    step = Finetune(epochs=8, batch_size=30, learning_rate=5e-3, teacher_weight=1.0, augment="none")
    trained = step.apply(pruned, data, folders[1])
    image = split.feed(slice(0, 120))["input"]

    def odds(artifact: Artifact) -> np.ndarray:
        logits = run(onnx.load(artifact.path), image)
        difference: np.ndarray = logits[:, 0] - logits[:, 1]  # what both share means nothing
        return difference

    far, near = (float(((odds(a) - odds(small)) ** 2).mean()) for a in (pruned, trained))
    assert near < 0.5 * far
    sizes = [[list(t.dims) for t in onnx.load(a.path).graph.initializer] for a in (pruned, trained)]
    assert sizes[0] == sizes[1]


def test_file_made_for_one_image_is_trained_on_batches(
    split: PreparedSplit, tmp_path: Path
) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3, 4)
            self.head = nn.Linear(8 * 12 * 12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x).relu().reshape(1, -1)  # one image, and no other number
            result: torch.Tensor = self.head(x)
            return result

    path = exported(Flat(), tmp_path / "given", dynamic_axes=None)
    artifact = artifact_of(path, split, batch=1)
    result = Finetune(epochs=1, batch_size=40).apply(
        artifact, StepData(split, seed=0, threads=1), tmp_path
    )
    assert result.lineage[-1].details["file_sqnr_db"] > FLOAT_DB
    assert result.inputs[0].shape[0] == 1


def test_file_that_takes_channels_last_is_trained(small: Artifact, tmp_path: Path) -> None:
    split = elpv_split(tmp_path / "split", 60, SIDE).with_forms({"input": Form(layout="nhwc")}, [])
    model = onnx.load(small.path)
    turn = helper.make_node("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2])
    onnx_graph.rename(model.graph, {"input": "turned"})
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("input", FLOAT, ["n", SIDE, SIDE, 3]))
    model.graph.node.insert(0, turn)
    (tmp_path / "given").mkdir()
    onnx.save(model, tmp_path / "given" / "net.onnx")
    artifact = artifact_of(tmp_path / "given" / "net.onnx", split)
    step = Finetune(epochs=1, batch_size=30, train_size=32)
    details = step.apply(artifact, StepData(split, seed=0, threads=1), tmp_path).lineage[-1].details
    assert details["file_sqnr_db"] > FLOAT_DB
    grey = split.with_forms({"input": Form(channels=1)}, [])
    with pytest.raises(UnsupportedError, match="its input input takes float32, grey"):
        load_trainee(artifact, grey, 1)


def test_smaller_images_are_refused_where_the_graph_is_made_for_one_size(
    small: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    any_size = load_trainee(small, split, 1)
    check_side(any_size, split, 24)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.Flatten(), nn.Linear(8 * 12 * 12, 2))
    one_size = load_trainee(artifact_of(exported(network, tmp_path), split), split, 1)
    check_side(one_size, split, None)
    with pytest.raises(UnsupportedError, match=r"train_size=24: .* made for one size alone"):
        check_side(one_size, split, 24)


def test_softmax_at_the_end_is_trained_by_its_logarithm(
    split: PreparedSplit, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = settled(Small())
    path = exported(nn.Sequential(network, nn.Softmax(1)), tmp_path)
    artifact = artifact_of(path, split, scores="probabilities")
    x = split.feed(slice(0, 8))["input"]
    with torch.no_grad():
        wanted = network(torch.from_numpy(x)).log_softmax(1).numpy()
        got = load_teacher(artifact)(torch.from_numpy(x)).numpy()
    assert sqnr_db(wanted, got) > FLOAT_DB
    assert load_trainee(artifact, split, 1).details["given_sqnr_db"] > FLOAT_DB
    sigmoid = exported(nn.Sequential(network, nn.Sigmoid()), tmp_path / "sigmoid")
    with pytest.raises(UnsupportedError, match="it gives probabilities, and no softmax"):
        load_teacher(artifact_of(sigmoid, split, scores="probabilities"))


def test_module_that_computes_something_else_is_refused(
    small: Artifact, split: PreparedSplit, tmp_path: Path
) -> None:
    model = onnx.load(small.path)
    module = OnnxModule(model)
    with torch.no_grad():
        module.weights[0].mul_(1.1)
    with pytest.raises(ParityError, match="computes something else"):
        trainee._agreement(module, small, split)
