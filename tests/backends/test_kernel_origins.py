"""Kernels of real sessions and the original layers that they are given to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from torch import nn

from pqbench.backends.openvino.backend import OpenvinoBackend
from pqbench.backends.openvino.kernels import means_since
from pqbench.backends.ort.backend import OrtBackend
from pqbench.backends.ort.kernels import ProfilingCost, kernel_times
from pqbench.core.artifact import Artifact, TensorSpec
from pqbench.core.backend import KernelProfile, Operator
from pqbench.report.layer_assignment import assign

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter

SIZE = 24
PLAIN = ["/first/Conv", "/Relu", "/second/Conv", "/Add", "/Relu_1", "/rest.0/Conv"]
LEFT_IN_FLOAT = "/HardSigmoid"  # ONNX Runtime has no integer kernel for it


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.rest = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(5))
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x) + x)
        for place, convolution in enumerate(self.rest):
            x = nn.functional.hardsigmoid(convolution(x)) if place == 2 else convolution(x).relu()
        return self.linear(x.mean((2, 3)))


class Readings(CalibrationDataReader):
    def __init__(self) -> None:
        noise = np.random.default_rng(0)
        self.left = [{"x": noise.random((1, 3, SIZE, SIZE), np.float32)} for _ in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network in FP32 and in INT8."""
    import openvino as ov

    folder = tmp_path_factory.mktemp("layers")
    torch.manual_seed(0)
    torch.onnx.export(
        Net().eval(), (torch.rand(1, 3, SIZE, SIZE),), folder / "fp32.onnx",
        input_names=["x"], output_names=["y"], dynamo=False, opset_version=17,
    )  # fmt: skip
    quantize_static(
        folder / "fp32.onnx", folder / "int8.onnx", Readings(), per_channel=True
    )  # fmt: skip
    for name in ("fp32", "int8"):
        ov.save_model(ov.convert_model(folder / f"{name}.onnx"), folder / f"{name}.xml", False)
    return folder


def told(folder: Path, runtime: str, name: str, runs: int = 12) -> KernelProfile:
    spec = (TensorSpec("x", (None, 3, SIZE, SIZE)),)
    backend = {"ort": OrtBackend(1), "openvino": OpenvinoBackend(1)}[runtime]
    kind, file = ("onnx", f"{name}.onnx") if runtime == "ort" else ("openvino", f"{name}.xml")
    session = backend.load(Artifact(kind, folder, file, spec, ("y",)), [1])
    times = session.kernels({"x": np.ones((1, 3, SIZE, SIZE), np.float32)}, runs)
    session.close()
    assert times is not None
    return times


@pytest.fixture(scope="module")
def original(folder: Path) -> tuple[Operator, ...]:
    return told(folder, "ort", "fp32").operators


def test_file_layers_are_the_nodes_of_the_file_in_order(original: tuple[Operator, ...]) -> None:
    assert [layer.name for layer in original][: len(PLAIN)] == PLAIN
    assert original[3].inputs == ("/second/Conv", "/Relu")


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_every_layer_is_in_a_kernel_and_every_kernel_is_charged(
    folder: Path, original: tuple[Operator, ...], runtime: str, name: str
) -> None:
    times = told(folder, runtime, name)
    found = assign(original, times.kernels)
    assert {x for a in found for x in a.layers} == {layer.name for layer in original}
    assert {a.charged for a in found} <= {layer.name for layer in original}
    assert sum(k.ms for k in times.kernels) > 0
    order = {layer.name: place for place, layer in enumerate(original)}
    convolutions = [x for x in order if x.endswith("/Conv")]
    of_kernel = {
        layer: place for place, a in enumerate(found) for layer in a.layers if layer in convolutions
    }
    assert list(of_kernel) == convolutions  # each in a kernel of its own, in order
    assert len(set(of_kernel.values())) == len(convolutions)


def test_ort_fuses_an_addition_into_the_convolution_before_it(
    folder: Path, original: tuple[Operator, ...]
) -> None:
    found = assign(original, told(folder, "ort", "fp32").kernels)
    fused = next(a for a in found if "/second/Conv" in a.layers)
    assert set(fused.layers) == {"/second/Conv", "/Add", "/Relu_1"}
    assert fused.charged == "/second/Conv"


def test_openvino_fuses_an_activation_into_the_convolution_before_it(
    folder: Path, original: tuple[Operator, ...]
) -> None:
    found = assign(original, told(folder, "openvino", "fp32").kernels)
    fused = next(a for a in found if "/rest.0/Conv" in a.layers)
    assert set(fused.layers) == {"/rest.0/Conv", "/Relu_2"}


def test_conversions_around_a_float_layer_are_charged_to_it(
    folder: Path, original: tuple[Operator, ...]
) -> None:
    times = told(folder, "ort", "int8")
    found = assign(original, times.kernels)
    kinds = [
        kernel.kind
        for kernel, a in zip(times.kernels, found, strict=True)
        if a.converts and a.charged == LEFT_IN_FLOAT
    ]
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds)
    first = next(a for k, a in zip(times.kernels, found, strict=True) if k.kind == "QuantizeLinear")
    assert first.charged == "/first/Conv"  # what quantizes the input


def test_ort_kernels_are_the_nodes_that_plain_onnxruntime_optimizes_to(
    folder: Path, tmp_path: Path
) -> None:
    import onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    kernels = told(folder, "ort", "int8").kernels
    assert sorted(k.kind.split()[-1] for k in kernels) == sorted(n.op_type for n in nodes)


def test_ort_nodes_without_a_name_have_times_of_their_own(folder: Path, tmp_path: Path) -> None:
    import onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / "int8.onnx", options, providers=["CPUExecutionProvider"]
    )
    for _ in range(8):
        session.run(None, {"x": np.ones((1, 3, SIZE, SIZE), np.float32)})
    optimized = onnx.load(tmp_path / "optimized.onnx")
    for node in optimized.graph.node:
        if node.op_type == "QLinearConv":
            node.name = ""
    kernels, call_ms = kernel_times(optimized, renamed(session.end_profiling()), 2)
    assert all(kernel.ms >= 0.0005 for kernel in kernels)  # each node was found in the profile
    assert call_ms >= sum(kernel.ms for kernel in kernels) - 0.0005 * len(kernels)
    cheaper, _ = kernel_times(
        optimized, renamed(tmp_path / "renamed.json"), 2, ProfilingCost(0.0005, 0.0005)
    )
    taken = sum(k.ms for k in kernels) - sum(k.ms for k in cheaper)
    assert taken == pytest.approx(0.0005 * len(kernels))


def renamed(profile: str | Path) -> Path:
    """A profile in which convolutions have no name, as the profiler writes it then."""
    events = json.loads(Path(profile).read_text())
    for event in events:
        if event.get("cat") == "Node" and event["args"].get("op_name") == "QLinearConv":
            event["name"] = f"QLinearConv_{event['args']['node_index']}_kernel_time"
    path = Path(profile).with_name("renamed.json")
    path.write_text(json.dumps(events))
    return path


def test_means_since_put_back_what_was_cut_and_take_the_first_calls_out() -> None:
    """Against counters that are cut as OpenVINO cuts them, of times that are known."""
    noise = np.random.default_rng(0)
    warm, runs, found = 10, 100, []
    for _ in range(60):
        us = np.r_[np.full(warm, 400.0), noise.uniform(20.0, 30.0, runs)].astype(int)
        before, after = (int(us[:n].sum() // n) / 1e3 for n in (warm, warm + runs))
        found.append(means_since({"k": before}, {"k": after}, warm, runs)["k"])
    assert np.mean(found) == pytest.approx(0.025, abs=0.00025)
    assert means_since({"k": 0.0}, {"k": 0.0}, warm, runs)["k"] == 0
